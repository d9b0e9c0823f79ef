"""What limits bagel-nano? python -m bench.nano.diagnose --model DIR --limit 20 --out RESULT.json

Three cheap answers: what its VAE alone gets wrong (reference pictures, redrawn through it, by the checker), how much
better it is at what training may have shown than at what was held out, and what is wrong with what fails.
Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

import bagel_rt
from bagel_rt.api import Bagel
from bagel_rt.artefact import contract
from bagel_rt.inputs.images import to_image, to_pixels
from bench.nano import words
from bench.nano.cases import HELD_OUT, TRAINED, Case
from bench.nano.checker import STILL, Found, Seen, is_on, look, relates, shows
from bench.nano.forms import varied
from bench.nano.pictures import received
from bench.nano.score import ask, chosen, is_free, is_right, summary
from bench.nano.world import BACKGROUNDS, COLOURS, SHAPES, Placed, Scene, Thing
from bench.timing import finish, machine

MORE_WORDS = 3  # answers asked for a picture
REDRAWN = 200  # references that the VAE redraws, of each kind


FACTS: dict[str, set[str]] = {  # words of an answer, by what they say
    "shape": {form for shape in SHAPES for form in (shape, words.noun(Thing(shape), 2))},
    "colour": set(COLOURS),
    "ground": set(BACKGROUNDS),
    "number": {*words.NUMBERS, "a", "an"},
    "relation": {"left", "right", "above", "below"},
    "yes or no": {"yes", "no"},
}


@dataclass(frozen=True)
class Wanted:
    """One thing that a picture should show, and where, if that matters."""

    thing: Thing
    centre: tuple[float, float] | None = None


def redrawn(bagel: Bagel, picture: np.ndarray) -> np.ndarray:
    """(side, side, 3) uint8 through the VAE and back, by the middle of what its encoder says."""
    (moments,) = bagel.graphs(contract.VAE_ENCODER, pixels=to_pixels(Image.fromarray(picture))[None])
    mean = np.split(moments, 2, axis=1)[0]
    (pixels,) = bagel.graphs(contract.VAE_DECODER, latent=mean)
    return np.asarray(to_image(pixels[0]))


def of_the_vae(redraw: Callable[[np.ndarray], np.ndarray], count: int) -> dict[str, Any]:
    """How many held-out pictures are still what they were once redrawn, beside those that the checker reads at all."""
    marks: dict[str, list[int]] = {}
    for hand in ("plain", "varied", "people"):
        rng = random.Random(f"redrawn {hand}")
        for _ in tqdm(range(count), desc=f"VAE, {hand}"):
            scene = HELD_OUT.scene(rng)
            scene = scene if hand == "plain" else varied(scene, rng, hand)
            picture, free = received(scene), scene.manner is not None
            marks.setdefault(f"{hand}, as drawn", []).append(int(shows(look(picture, free), scene)))
            again = redraw(picture)
            marks.setdefault(f"{hand}, redrawn", []).append(int(shows(look(again, free), scene)))
    return summary(marks)


def wanted(case: Case) -> tuple[list[Wanted], Scene | None]:
    """What a picture should show, and of an edit the scene whose ground it should have."""
    if case.wish is not None:
        return [Wanted(thing) for thing in case.wish.things], None
    assert case.edit is not None
    placed = case.edit.after.placed
    found = [Wanted(_said(p), p.centre) for p in placed]
    if case.edit.action == "add":
        found[-1] = Wanted(replace(placed[-1].thing, size=None))
    return found, case.edit.after


def _said(placed: Placed) -> Thing:
    return replace(placed.thing, size=None) if placed.form else placed.thing


def faults(seen: Seen, case: Case) -> Counter[str]:
    """What is wrong with a picture: the fewest faults by which what was found can be what was wanted."""
    things, scene = wanted(case)
    found = [f for f in seen.found if f is not None]
    out = Counter({"no shape at all": len(seen.found) - len(found)})
    out["missing"], out["too many"] = max(0, len(things) - len(found)), max(0, len(found) - len(things))
    out += min((_between(pairs) for pairs in _pairings(found, things)), key=Counter.total, default=Counter())
    wish = case.wish
    if scene is not None:
        out["ground"] += not is_on(seen, scene)
    elif wish is not None and wish.background:
        out["ground"] += seen.background != wish.background
    if wish is not None and wish.relation and len(found) == len(things):
        stands = any(
            relates(a, b, wish.relation)
            for a, b in permutations(found, 2)
            if things[0].thing.fits(a.thing) and things[1].thing.fits(b.thing)
        )
        out["relation"] += not stands and not (out["colour"] or out["shape"] or out["size"])
    return +out


def _pairings(found: Sequence[Found], things: Sequence[Wanted]) -> Any:
    """All ways to say which found thing is which wanted one; of more than MOST found, the first few."""
    found = found[:5]
    if len(found) >= len(things):
        return (list(zip(order, things, strict=True)) for order in permutations(found, len(things)))
    return (list(zip(found, order, strict=True)) for order in permutations(things, len(found)))


def _between(pairs: list[tuple[Found, Wanted]]) -> Counter[str]:
    out: Counter[str] = Counter()
    for one, want in pairs:
        for fact in ("shape", "colour", "size"):
            said, there = getattr(want.thing, fact), getattr(one.thing, fact)
            out[fact] += said is not None and there is not None and said != there
        if want.centre is not None:
            out["place"] += np.hypot(one.x - want.centre[0], one.y - want.centre[1]) > STILL
    return out


def misread(answer: str, given: str) -> Counter[str]:
    """Which facts an answer tells otherwise."""
    right, said = (text.replace(",", "").split() for text in (answer, given))
    wrong = [n for n, fact in FACTS.items() if sorted(fact.intersection(right)) != sorted(fact.intersection(said))]
    return Counter(wrong or ["its wording"])


def asked(bagel: Bagel, cases: list[Case], options: dict[str, Any]) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """Marks by category, and of what failed how much had which fault."""
    marks: dict[str, list[int]] = {}
    wrong: dict[str, Counter[str]] = {}
    for case in tqdm(cases, unit="case"):
        picture, text = ask(bagel, case, options)
        right = is_right(case, picture, text)
        marks.setdefault(case.category, []).append(int(right))
        if not right:
            kinds = (
                faults(look(np.asarray(picture), is_free(case)), case)
                if picture
                else misread(str(case.answer), str(text))
            )
            wrong.setdefault(case.category, Counter()).update({"failed": 1, **dict.fromkeys(kinds, 1)})
    return marks, {category: dict(counts.most_common()) for category, counts in wrong.items()}


def _kinds(case: Case, picture: Image.Image | None, text: str | None) -> Counter[str]:
    if picture is None:
        return misread(str(case.answer), str(text))
    return faults(look(np.asarray(picture), is_free(case)), case)


def fewer_pictures(cases: list[Case], limit: int) -> list[Case]:
    """All answers, and of pictures, which take longer, the first `limit` of each category."""
    seen: Counter[str] = Counter()
    kept = []
    for case in cases:
        seen[case.category] += 1
        if case.answer is not None or seen[case.category] <= limit:
            kept.append(case)
    return kept


def apart(trained: dict[str, Any], held_out: dict[str, Any]) -> dict[str, float]:
    """How much more often it is right of what training may have shown."""
    return {name: round(trained[name]["share"] - held_out[name]["share"], 4) for name in held_out}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument(
        "--limit", type=int, default=20, help="cases per category and half; of words three times as many"
    )
    parser.add_argument("--only", nargs="*", help="categories")
    parser.add_argument("--redrawn", type=int, default=REDRAWN)
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=JSON", help="image options, num_timesteps=20")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    options = {k: json.loads(v) for k, v in (pair.split("=", 1) for pair in args.set)}
    began, halves = time.monotonic(), {}
    with bagel_rt.load(args.model, args.backend) as bagel:
        vae = of_the_vae(partial(redrawn, bagel), args.redrawn)
        for name, half in (("held out", HELD_OUT), ("trained", TRAINED)):
            cases = chosen(args.only, MORE_WORDS * args.limit, half)
            halves[name] = asked(bagel, fewer_pictures(cases, args.limit), options)
        engine, model = bagel.engine, bagel.model
    scores = {name: summary(marks) for name, (marks, _) in halves.items()}
    report = {
        "bench": "nano/diagnose",
        "model": model,
        "engine": engine,
        **machine(),
        "options": options or "the defaults of generate and edit",
        "seconds": round(time.monotonic() - began, 1),
        "through the VAE": vae,
        "scores": scores,
        "trained over held out": apart(scores["trained"], scores["held out"]),
        "faults": {name: faults for name, (_, faults) in halves.items()},
    }
    finish(report, args.out)


if __name__ == "__main__":
    main()
