"""Options that do nothing in their call are said once, and no others are."""

from __future__ import annotations

import warnings

import pytest
from calls import FAST, run

import bagel_rt

IDLE = [  # of generate, and what is said
    ({"negative_prompt": "b", "cfg_text_scale": 1.0}, r"negative_prompt \(needs cfg_text_scale above 1\)"),
    ({"cfg_img_scale": 2.0, "cfg_text_scale": 0.5}, r"cfg_img_scale \(needs cfg_text_scale above 1\)"),
    ({"max_think_tokens": 5}, r"max_think_tokens \(needs think\)"),
    ({"do_sample": True}, r"do_sample \(needs think\)"),
    ({"text_temperature": 1.0}, r"text_temperature \(needs think and do_sample\)"),
    ({"vae_seed": 3}, r"vae_seed \(needs an input image\)"),
    ({"vae_sample": False, "max_think_tokens": 5}, r"max_think_tokens \(needs think\), vae_sample \(needs an input"),
    ({"cfg_img_scale": 1.5}, "cfg_img_scale is given and there is no input image"),
]
ACTING = [
    {"negative_prompt": "b"},
    {"cfg_text_scale": 1.0, "cfg_img_scale": 1.0},
    {"think": True, "max_think_tokens": 2, "do_sample": True, "text_temperature": 1.0},
    {"think": True, "max_think_tokens": 2, "cfg_img_scale": 1.5},  # the plan is what the contexts differ by
    {"preset": "app"},  # image guidance in text-to-image, as the official app has it
    {"max_think_tokens": 1000, "do_sample": False, "text_temperature": 0.3},  # the defaults, as a record repeats them
]


@pytest.mark.parametrize("given, said", IDLE)
def test_an_option_without_effect_is_named_once(small_bagel, given, said):
    with pytest.warns(bagel_rt.BagelWarning, match=said) as heard:
        small_bagel.generate("a", seed=1, **FAST, **given)
    assert len(heard) == 1
    assert heard[0].filename == __file__  # the caller's line, not ours


@pytest.mark.parametrize("given", ACTING)
def test_options_that_act_are_not_remarked_on(small_bagel, given):
    with warnings.catch_warnings(action="error"):
        small_bagel.generate("a", seed=1, **FAST, **given)


def test_answers_edits_and_sessions_are_looked_at_too(small_bagel, photo):
    for name, value in (("text_temperature", 1.0), ("top_k", 3), ("top_p", 0.5)):
        with pytest.warns(bagel_rt.BagelWarning, match=rf"{name} \(needs do_sample\)"):
            small_bagel.ask("a", max_tokens=2, **{name: value})
    with small_bagel.session() as session:
        session.add_text("a")
        with pytest.warns(bagel_rt.BagelWarning, match=r"top_k \(needs do_sample\)"):
            session.generate_text(max_tokens=2, top_k=3)
        with pytest.warns(bagel_rt.BagelWarning, match="there is no input image"):
            session.generate_image(cfg_img_scale=2.0, **FAST)
        with warnings.catch_warnings(action="error"):
            session.generate_image(cfg_img_scale=2.0, **FAST)  # the picture drawn before is one
            session.generate_image(vae_sample=False, **FAST)  # how this picture is read in the next turn
    with warnings.catch_warnings(action="error"):
        small_bagel.edit(photo, "x", cfg_img_scale=3.0, vae_seed=3, **FAST)
        small_bagel.ask("a", photo, vit_raw=True, max_tokens=2)


def test_the_command_line_says_it_in_one_line_and_once(capsys, model, tmp_path):
    given = ["--prompt", "a", "--out", tmp_path / "a.png", "--height", 64, "--width", 64, "--num-timesteps", 3]
    code, _, err = run(capsys, "generate", *given, "--max-think-tokens", 5, "--backend", "onnxruntime")
    assert code == 0
    notes = [line for line in err.splitlines() if "note" in line]
    assert notes == ["bagel-rt: note: no effect in this call: max_think_tokens (needs think)"]


def test_a_remark_is_made_once_for_all_turns_of_a_chat(capsys, model, monkeypatch):
    lines = iter(["a", "b"])

    def typed(_: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", typed)
    code, _, err = run(capsys, "chat", "--max-tokens", 2, "--top-k", 3, "--backend", "onnxruntime")
    assert (code, err.count("note:")) == (0, 1)


def test_other_peoples_warnings_are_left_as_they_are(recwarn):
    from bagel_rt.cli.notes import notes

    shown = warnings.showwarning
    with notes():
        warnings.warn("mine", DeprecationWarning, stacklevel=1)
    assert warnings.showwarning is shown
    assert [str(one.message) for one in recwarn] == ["mine"]
