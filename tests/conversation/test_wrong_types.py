"""Values of a wrong type anywhere in the public API are refused by name, before any work."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import bagel_rt

PICTURE = Image.new("RGB", (64, 64))
WRONG = {
    "load(123)": lambda _: bagel_rt.load(123),
    "load(bytes)": lambda _: bagel_rt.load(b"folder"),
    "load(None)": lambda _: bagel_rt.load(None),
    "load backend": lambda bagel: bagel_rt.load(bagel.manifest.folder, backend=5),
    "load device": lambda bagel: bagel_rt.load(bagel.manifest.folder, device=5),
    "load arithmetic": lambda bagel: bagel_rt.load(bagel.manifest.folder, arithmetic=5),
    "load max_memory": lambda bagel: bagel_rt.load(bagel.manifest.folder, max_memory="all"),
    "prompt None": lambda bagel: bagel.generate(None),
    "prompt bytes": lambda bagel: bagel.ask(b"what"),
    "prompt list": lambda bagel: bagel.generate(["a"]),
    "preset number": lambda bagel: bagel.generate("a", preset=5),
    "preset list": lambda bagel: bagel.generate("a", preset=["app"]),
    "on_progress": lambda bagel: bagel.generate("a", on_progress=5),
    "seed str": lambda bagel: bagel.generate("a", seed="1"),
    "seed set": lambda bagel: bagel.generate("a", seed={1}),
    "seed table": lambda bagel: bagel.generate("a", seed=np.ones((2, 2), int)),
    "seed object": lambda bagel: bagel.generate("a", seed=object()),
    "images of generate": lambda bagel: bagel.generate("a", images=[PICTURE]),
    "edit nothing": lambda bagel: bagel.edit(None, "a"),
    "edit the other way round": lambda bagel: bagel.edit("a", PICTURE),
    "edit dict": lambda bagel: bagel.edit({}, "a"),
    "edit objects": lambda bagel: bagel.edit(np.array([None]), "a"),
    "ask(images=5)": lambda bagel: bagel.ask("a", images=5),
    "ask(images=None)": lambda bagel: bagel.ask("a", images=None),
    "ask nested": lambda bagel: bagel.ask("a", images=[[PICTURE]]),
    "interleave(None)": lambda bagel: bagel.interleave(None),
    "interleave dict": lambda bagel: bagel.interleave({"a": 1}),
    "interleave [None]": lambda bagel: bagel.interleave([None]),
    "interleave numbers": lambda bagel: bagel.interleave(range(3)),
    "output number": lambda bagel: bagel.interleave(["a"], 5),
    "output list": lambda bagel: bagel.interleave(["a"], ["text"]),
    "output array": lambda bagel: bagel.interleave(["a"], np.array(["text", "image"])),
    "stream(None)": lambda bagel: bagel.stream(None),
    "stream a picture": lambda bagel: bagel.stream(PICTURE),
    "stream an array": lambda bagel: bagel.stream(np.zeros((4, 4, 3), np.uint8)),
    "preview": lambda bagel: bagel.preview(5),
    "session seed": lambda bagel: bagel.session("a"),
    "session think": lambda bagel: bagel.session(think=[]),
    "session think array": lambda bagel: bagel.session(think=np.array([1, 2])),
    "noise list": lambda bagel: bagel.generate("a", noise=[[1.0]]),
    "noise integers": lambda bagel: bagel.generate("a", noise=np.ones((16, 64), int)),
    "interval number": lambda bagel: bagel.generate("a", cfg_interval=0.4),
    "interval table": lambda bagel: bagel.generate("a", cfg_interval=np.ones((2, 2))),
    "interval str": lambda bagel: bagel.generate("a", cfg_interval="ab"),
    "renorm array": lambda bagel: bagel.generate("a", cfg_renorm_type=np.array(["a", "b"])),
    "flag array": lambda bagel: bagel.generate("a", think=np.array([True])),
    "complex": lambda bagel: bagel.generate("a", cfg_text_scale=1j),
    "negative_prompt": lambda bagel: bagel.generate("a", negative_prompt=5),
}
WRONG_IN_A_SESSION = {
    "add_text": lambda session: session.add_text(5),
    "add_image": lambda session: session.add_image(5),
    "add_image vae": lambda session: session.add_image(PICTURE, vae="yes"),
    "rollback": lambda session: session.rollback(5),
    "rollback(None)": lambda session: session.rollback(None),
    "fork": lambda session: session.fork([1]),
    "generate_text on_progress": lambda session: session.generate_text(on_progress=5),
    "generate_image on_progress": lambda session: session.generate_image(on_progress="x"),
    "generate_text option": lambda session: session.generate_text(max_tokens="9"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_call_refuses_a_value_of_a_wrong_type(small_bagel, what):
    before = dict(small_bagel.graphs.calls)
    with pytest.raises(bagel_rt.InputError) as refused:
        WRONG[what](small_bagel)
    assert "\n" not in str(refused.value)
    assert small_bagel.graphs.calls == before


@pytest.mark.parametrize("what", WRONG_IN_A_SESSION)
def test_a_session_refuses_a_value_of_a_wrong_type(small_bagel, what):
    with small_bagel.session() as session:
        session.add_text("a")
        here = session.mark()
        with pytest.raises(bagel_rt.InputError):
            WRONG_IN_A_SESSION[what](session)
        assert session.mark() is here
