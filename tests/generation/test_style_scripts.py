"""Each built-in style against an independent script of its rules, call by call over the recorded checkpoint.

A script is the control flow of a public fine-tune's own inference code, written down from its description: it builds
each context by hand, from nothing, for each turn. What is compared is all that the model's networks gave: the logits of
every token that was asked for, and the latents of every picture.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from spelled import Spelled, spell

import bagel_rt
from bagel_rt.events import finished
from bagel_rt.inputs.images import resize
from bagel_rt.inputs.segments import Histories
from bagel_rt.options.encoding import Encoding
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.options.text_options import TextOptions
from bagel_rt.sampling.torch_noise import TorchNoise
from bagel_rt.styles.files import style_named

SEED = 11
QUESTION = "how many?"
EDIT = ImageOptions(
    cfg_text_scale=4.0, cfg_img_scale=2.0, cfg_interval=(0.0, 1.0), cfg_renorm_type="text_channel", num_timesteps=3
)


class Hand:
    """Texts and pictures of a model behind contexts that were put together by hand."""

    def __init__(self, bagel: bagel_rt.Bagel):
        self._turns = bagel._turns
        self.latents: list[np.ndarray] = []

    def words(self, *texts: str) -> list:
        return [self._turns.reader.text(text) for text in texts]

    def vit(self, image: Image.Image) -> list:
        return self._turns.reader.encoded(image, Encoding(False, True), TorchNoise(0))[0]

    def vae_and_vit(self, image: Image.Image, noise: TorchNoise) -> list:
        return self._turns.reader.encoded(image, Encoding(True, True, True), noise)[0]

    def size(self, image: Image.Image) -> tuple[int, int]:
        wide, high = resize(self._turns.manifest.vae_transform, image).size
        return high, wide

    def text(self, history: list) -> tuple[str, str | None]:
        """What is written, and the token behind its end."""
        turns = self._turns
        with turns.tree.lease() as contexts:
            how = TextOptions(max_tokens=60)
            written = finished(
                turns.write(contexts, tuple(history), how, TorchNoise(0), "", self.stop_at, self.follows)
            )
        behind = written.stopped_at if written.following is None else turns.codec.decode([written.following])
        return written.text, behind

    follows: bool = False
    stop_at: tuple[str, ...] = ()

    def picture(self, cond: list, cfg_text: list, cfg_img: list, size, noise: TorchNoise, opts=EDIT) -> Image.Image:
        turns, grid = self._turns, (size[0] // 16, size[1] // 16)
        histories = Histories(tuple(cond), tuple(cfg_text), tuple(cfg_img))
        with turns.tree.lease() as contexts:
            start = noise.normal(grid[0] * grid[1], 64)
            painting = finished(turns.painter.paint(contexts, histories, opts, start, grid, noise))
        self.latents.append(painting.latent)
        return painting.image


def zebra_cot(hand: Hand, question: str, image: Image.Image) -> None:
    system, items, turn = style_named("zebra-cot").system, [question, image], 0
    while True:
        seen = [s for i in items for s in (hand.words(i) if isinstance(i, str) else hand.vit(i))]
        text, _ = hand.text(hand.words(system) + seen)
        turn += 1
        if "Final Answer:" in text or "<answer>" in text:
            return
        items.append(text)
        first, own = TorchNoise(SEED), TorchNoise(SEED + turn)
        cond, cfg_text, cfg_img = hand.words(system), [], hand.words(system)
        for item in items:
            if isinstance(item, str):
                cfg_text, cond, cfg_img = cond, cond + hand.words(item), cfg_img + hand.words(item)
            else:
                cond = cond + hand.vae_and_vit(item, first)
                hand.vae_and_vit(item, own)  # its random numbers are passed over
                cfg_text, size = cond, hand.size(item)
        items.append(hand.picture(cond, cfg_text, cfg_img, size, own))
        turn += 1


def mathcanvas(hand: Hand, question: str, image: Image.Image) -> None:
    encoding, turn, hand.follows = TorchNoise(SEED), 0, True
    given = hand.vae_and_vit(image, encoding)
    cond, pictures, texts = given + hand.words(question), given, hand.words(question)
    images, draws = [image], False
    for turn in range(10):
        if not draws:
            text, behind = hand.text(cond)
            cond, texts = cond + hand.words(text.strip()), texts + hand.words(text.strip())
            if behind == "<|endoftext|>":
                return
            draws = behind == "<|vision_start|>"
        else:
            own = TorchNoise(SEED + turn)
            for one in images:
                hand.vae_and_vit(one, own)
            images.append(hand.picture(cond, pictures, texts, hand.size(image), own))
            made = hand.vae_and_vit(images[-1], encoding)
            cond, pictures, draws = cond + made, pictures + made, False


def thinkmorph(hand: Hand, question: str, image: Image.Image) -> None:
    system, encoding, images, turn = style_named("thinkmorph").system, TorchNoise(SEED), [image], 0
    before = hand.words(system) + hand.vae_and_vit(image, encoding)
    cond, cfg_text, cfg_img = before + hand.words(question), before, hand.words(system, question)
    for _ in range(3):
        text, _ = hand.text(cond)
        cond, turn = cond + hand.words(text), turn + 1
        if "<image_start>" not in text:
            return
        own = TorchNoise(SEED + turn)
        for one in images:
            hand.vae_and_vit(one, own)
        images.append(hand.picture(cond, cfg_text, cfg_img, hand.size(image), own))
        cond, turn = cond + hand.vae_and_vit(images[-1], encoding), turn + 1


def generic(hand: Hand, question: str, image: Image.Image) -> None:
    """Two contexts, of which one shows pictures by the ViT alone; a text that is cut off at its tag is read without."""
    system, encoding, turn, items = style_named("generic").system, TorchNoise(SEED), 0, [image, question]
    hand.stop_at = ("<image_start>",)
    views: list = [hand.words(system) + hand.vit(image) + hand.words(question)]
    given = hand.words(system) + hand.vae_and_vit(image, encoding)
    cond, cfg_text, cfg_img = given + hand.words(question), given, hand.words(system, question)
    while True:
        text, tag = hand.text(views[0])
        turn += 1
        if tag is None:
            return
        views[0], cfg_text = views[0] + hand.words(text), cond
        cond, cfg_img, own = cond + hand.words(text), cfg_img + hand.words(text), TorchNoise(SEED + turn)
        for one in items:
            if isinstance(one, Image.Image):
                hand.vae_and_vit(one, own)
        size = hand.size([one for one in items if isinstance(one, Image.Image)][-1])
        items.append(hand.picture(cond, cfg_text, cfg_img, size, own))
        turn += 1
        views[0] = views[0] + hand.vit(items[-1])
        cond = cond + hand.vae_and_vit(items[-1], encoding)
        cfg_text = cond


def unicot(hand: Hand, question: str, image: Image.Image) -> None:
    system, first = style_named("unicot").system, TorchNoise(SEED)
    given = hand.vae_and_vit(image, first)
    seen = hand.words(system) + hand.vit(image) + hand.words(question)
    plan, _ = hand.text(seen)
    own, shifted = TorchNoise(SEED + 1), replace(EDIT, timestep_shift=4.0)
    hand.vae_and_vit(image, own)
    before = hand.words(system) + given
    cond = before + hand.words(question, plan)
    made = hand.picture(cond, before, hand.words(system, question), hand.size(image), own, shifted)
    for turn in (4, 7, 10):
        judged = seen + hand.words(plan) + hand.vit(made)
        opinion, _ = hand.text(judged)
        suggestion, _ = hand.text(judged + hand.words(opinion))
        if "Everything is good" in suggestion:
            return
        change, own = suggestion.split("<sugg>")[-1].split("</sugg>")[0].strip(), TorchNoise(SEED + turn)
        shown = hand.vae_and_vit(made, own)
        made = hand.picture(shown + hand.words(change), shown, hand.words(change), hand.size(made), own, shifted)


SAID = {
    generic: ["see <image_start>", "and<image_start>", "so <answer>2</answer>"],
    zebra_cot: ["first this", "then that", "Final Answer: two"],
    mathcanvas: [
        (" a ", "<|vision_start|>"),
        ("b", "<|im_start|>"),
        ("c\n", "<|vision_start|>"),
        ("d", "<|endoftext|>"),
    ],
    thinkmorph: ["one <image_start>", "two<image_start> ", "three <image_start>"],
    unicot: [
        "a plan",
        "not so",
        "well <sugg> more red </sugg>",
        "still",
        "<sugg>less</sugg>",
        "good",
        "Everything is good",
    ],
}
PICTURES = {generic: 2, zebra_cot: 2, mathcanvas: 2, thinkmorph: 3, unicot: 3}


@pytest.fixture(scope="module")
def golden(golden_artefact):
    with bagel_rt.load(golden_artefact, backend="onnxruntime") as bagel:
        bagel._admission = None  # its rehearsal would use up what a test has the model say
        yield bagel


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(8).integers(0, 256, (64, 80, 3)).astype(np.uint8))


def _said(monkeypatch, codec, script) -> Spelled:
    spelled = spell(monkeypatch)
    spelled.say(codec, SAID[script], stop_at="<image_start>" if script is generic else None)
    return spelled


@pytest.mark.parametrize("script", SAID, ids=lambda script: script.__name__)
def test_a_built_in_style_is_its_own_script_call_by_call(golden, picture, monkeypatch, script):
    codec, style = golden._turns.codec, style_named(script.__name__.replace("_", "-"))
    style = replace(style, sizes=style_named("generic").sizes)  # this model's are smaller
    hand, spelled = Hand(golden), _said(monkeypatch, codec, script)
    script(hand, QUESTION, picture)
    assert not spelled.waiting
    again = _said(monkeypatch, codec, script)
    result = golden.reason(QUESTION, picture, style=style, seed=SEED, num_timesteps=3)
    assert not again.waiting
    assert len(again.logits) == len(spelled.logits)
    for mine, theirs in zip(again.logits, spelled.logits, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-4)
    assert len(result.pictures) == len(hand.latents) == PICTURES[script]
    for drawn, latent in zip(result.pictures, hand.latents, strict=True):
        np.testing.assert_allclose(drawn.latent, latent, rtol=0, atol=1e-3)
