"""`demo`: draws, edits, thinks and answers with the bundled model in about a minute; one sheet shows the results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bagel_rt.artefact.folders import BUNDLED
from bagel_rt.cli.contact_sheet import Card, contact_sheet
from bagel_rt.cli.progress import Bars
from bagel_rt.files.output_files import write_by
from bagel_rt.files.output_folder import output_folder
from bagel_rt.files.typed_paths import typed_path

if TYPE_CHECKING:
    from bagel_rt.api import Bagel

SEED, COLUMNS, SHEET = 32, 4, "sheet.png"
DRAWN = (
    "a red circle",
    "three green stars on a black background",
    "a blue square left of a yellow triangle",
    "a purple ring above an orange cross on a beige background",
)
THOUGHT_OVER = "as many triangles as a car has wheels"
EDITED = (  # edits of the third drawing
    "make the square red",
    "remove the triangle",
    "make the background black",
)
ASKED = ((1, "how many stars are there?"), (2, "what colour is the square?"), (3, "what colour is the background?"))
CAPTIONED = (2, "what is in this picture?")


def register(commands) -> None:
    demo = commands.add_parser(
        "demo",
        help="try it: draw, edit, ask and think with the small bundled model",
        description="Draw, edit, ask and think with bagel-nano, the small bundled model; ends in a contact sheet.",
    )
    demo.add_argument("--out", type=Path, default=Path("bagel-demo"), metavar="DIR", help="default: bagel-demo")
    demo.add_argument("--backend", default="auto", help="auto, onnxruntime or openvino (default: auto)")
    demo.set_defaults(run=run_demo)


def run_demo(args: argparse.Namespace) -> None:
    from bagel_rt.api import load

    out = typed_path(args.out)
    with output_folder(out):
        with load(BUNDLED, args.backend) as bagel, Bars() as bars:
            print(f"bagel-rt: {bagel.manifest.name} on {bagel.engine}", file=sys.stderr)
            cards = []
            for line, card in _shown(bagel, out, bars):
                print(line)
                cards.append(card)
        write_by(out / SHEET, contact_sheet(cards, COLUMNS).save)
    print(f"all of it: {out / SHEET}")
    model = f"--model {BUNDLED.name}"
    print(f"again:     bagel-rt generate {model} --prompt {DRAWN[0]!r} --seed {SEED} --out again.png")


def _shown(bagel: Bagel, folder: Path, progress: Callable) -> Iterator[tuple[str, Card]]:
    """Do each part of the demo; yields a line for the terminal and a card for the sheet, and saves the pictures."""
    drawings = []
    for i, prompt in enumerate(DRAWN, 1):
        drawn = bagel.generate(prompt, seed=SEED, on_progress=progress)
        drawn.save(folder / f"drawn-{i}.png")
        drawings.append(drawn.image)
        yield f"drew       {prompt}", Card(drawn.image, prompt)
    for i, instruction in enumerate(EDITED, 1):
        edited = bagel.edit(drawings[2], instruction, seed=SEED, on_progress=progress)
        edited.save(folder / f"edited-{i}.png")
        yield f"edited     {instruction}", Card(edited.image, f"edit: {instruction}")
    planned = bagel.generate(THOUGHT_OVER, seed=SEED, think=True, on_progress=progress)
    planned.save(folder / "thought.png")
    yield f"thought    {THOUGHT_OVER}: {planned.text}", Card(planned.image, f"{THOUGHT_OVER}: {planned.text}")
    for index, question in (*ASKED, CAPTIONED):
        answer = bagel.ask(question, drawings[index], on_progress=progress).text
        yield f"asked      {question} {answer}", Card(drawings[index], f"{question} {answer}")
