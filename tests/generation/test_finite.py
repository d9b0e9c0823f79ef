"""Numbers that are not finite end a call with what they are and what causes them; they never become a picture."""

from __future__ import annotations

import numpy as np
import pytest
from calls import FAST, run

import bagel_rt
from bagel_engines import EngineInfo
from bagel_rt.artefact import contract
from bagel_rt.model.finite import check_finite
from bagel_rt.model.graphs import Graphs


@pytest.fixture
def spoiled(monkeypatch):
    """Make one graph compute a number that is not finite, from some call on."""
    whole = Graphs.__call__

    def spoil(graph: str, value: float, after: int = 0) -> None:
        calls = 0

        def call(self, name, *given, **inputs):
            nonlocal calls
            out = whole(self, name, *given, **inputs)
            meant = name == graph and self.engine.info.name != "counting"  # not the rehearsal before the call
            calls += meant
            if not meant or calls <= after:
                return out
            first = np.array(out[0])
            first.reshape(-1)[-1] = value
            return (first, *out[1:])

        monkeypatch.setattr(Graphs, "__call__", call)

    return spoil


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_velocity_that_is_not_finite_names_its_step_and_the_next_call_works(small_bagel, spoiled, value, monkeypatch):
    spoiled(contract.FLOW_HEAD, value, after=1)
    with pytest.raises(bagel_rt.NotFiniteError, match=r"step 2 of 2, the model's velocity \(cond\).*not finite"):
        small_bagel.generate("a", seed=1, cfg_text_scale=1.0, **FAST)
    monkeypatch.undo()
    assert np.isfinite(small_bagel.generate("a", seed=1, **FAST).latent).all()


def test_a_forecast_step_is_looked_at_too(small_bagel, spoiled):
    spoiled(contract.FLOW_HEAD, np.nan, after=5)
    how = {**FAST, "num_timesteps": 9, "cfg_text_scale": 1.0}
    with pytest.raises(bagel_rt.NotFiniteError, match="step 6 of 8"):
        small_bagel.generate("a", seed=1, step_cache="taylorseer", **how)


def test_guidance_beyond_float32_names_the_option_and_its_value(small_bagel):
    with pytest.raises(bagel_rt.NotFiniteError, match=r"step 1 of 2, the latent: .*cfg_text_scale is 3e\+38"):
        small_bagel.generate("a", seed=1, cfg_text_scale=3e38, **FAST)


def test_noise_that_overflows_the_model_names_the_latents(small_bagel):
    noise = np.full((16, 64), 3e38, np.float32)
    with pytest.raises(bagel_rt.NotFiniteError, match=r"step 1 of 2, .*latents up to 3e\+38"):
        small_bagel.generate("a", noise=noise, **FAST)


@pytest.mark.parametrize(
    "graph, words, call",
    [
        (contract.LM_HEAD, "token 1 of the text, the logits", lambda b, photo: b.ask("a", max_tokens=3)),
        (contract.LM_HEAD, "the logits", lambda b, photo: b.generate("a", think=True, max_think_tokens=3, **FAST)),
        (contract.VAE_DECODER, "the decoded picture", lambda b, photo: b.generate("a", **FAST)),
        (contract.VAE_ENCODER, "an input image, encoded", lambda b, photo: b.edit(photo, "a", **FAST)),
    ],
)
def test_every_other_graph_whose_numbers_decide_is_looked_at(small_bagel, photo, spoiled, graph, words, call):
    spoiled(graph, np.nan)
    with pytest.raises(bagel_rt.NotFiniteError, match=words):
        call(small_bagel, photo)


def test_the_command_ends_with_1_and_writes_no_picture(small_artefact, spoiled, capsys, tmp_path):
    spoiled(contract.FLOW_HEAD, np.nan)
    given = ["generate", "--model", small_artefact, "--prompt", "a", "--out", tmp_path / "a.png", "--height", 64]
    code, _, err = run(capsys, *given, "--width", 64, "--num-timesteps", 3)
    assert code == 1
    assert "step 1 of 2" in err
    assert list(tmp_path.glob("*.png")) == []


@pytest.mark.parametrize(
    "arithmetic, advice",
    [
        ("float16", "--precision bf16"),
        ("int8 weights, float16", "--arithmetic bf16"),
        ("bfloat16", "verify"),
        ("float32", "verify"),
    ],
)
def test_the_advice_is_for_the_arithmetic_that_was_used(arithmetic, advice):
    with pytest.raises(bagel_rt.NotFiniteError, match=advice):
        check_finite(np.array([np.nan]), "x", EngineInfo("onnxruntime", "1", "cpu", arithmetic))
    check_finite(np.array([65504.0]), "x", EngineInfo("onnxruntime", "1", "cpu", arithmetic))
