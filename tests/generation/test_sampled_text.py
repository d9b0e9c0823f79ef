"""Sampled text draws from the stream the official code draws from on a CPU: the same seed gives its text, and picture.

The official side is the stand-in: its modules and torch's own multinomial, run and recorded.
"""

from __future__ import annotations

import numpy as np
import pytest
from golden_cases import LATENT, distance
from recording import STANDIN

from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.proof.record import Asked, record
from bagel_export.proof.records import read_record

SAMPLED = {"do_sample": True, "text_temperature": 2.0}
DRAWN = {"num_timesteps": 3, "cfg_text_scale": 2.0}


@pytest.fixture
def official(small_checkpoint, tmp_path):
    def run(mode: str, inputs: tuple, seed: int, **kwargs) -> dict[str, np.ndarray]:
        out = tmp_path / "run.npz"
        record(STANDIN, open_checkpoint(small_checkpoint), Asked(mode, inputs, kwargs, seed), out, "cpu", "fp32")
        return read_record(out)[1]

    return run


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_sampled_answer_is_the_official_one(small_bagel, official, seed):
    given = official("understand", ("a",), seed, understanding_output=True, max_think_token_n=20, **SAMPLED)
    asked = small_bagel.ask("a", seed=seed, max_tokens=20, **SAMPLED)
    assert asked.token_ids == given["text0.returned_ids"].tolist()


@pytest.mark.parametrize("tokens", [1, 6])
def test_a_picture_behind_a_sampled_plan_is_the_official_one(small_bagel, official, photo, tokens):
    size = {"height": 64, "width": 64}
    how = {"think": True, **SAMPLED, **DRAWN}
    given = official("t2i", ("a",), 5, max_think_token_n=tokens, image_shapes=(64, 64), **how)
    drawn = small_bagel.interleave(["a"], seed=5, max_think_tokens=tokens, **size, **how)
    assert distance(drawn.latent, given["final_latent"]) <= LATENT
    given = official("edit", (np.asarray(photo), "b"), 5, max_think_token_n=tokens, **how)
    drawn = small_bagel.interleave([photo, "b"], seed=5, max_think_tokens=tokens, **how)
    assert distance(drawn.latent, given["final_latent"]) <= LATENT


def test_a_session_draws_its_text_and_noise_from_one_stream_in_the_order_of_its_turns(small_bagel):
    how = {"max_tokens": 6, **SAMPLED}
    with small_bagel.session(seed=7) as session:
        session.add_text("a")
        session.generate_text(**how)
        noise = session.mark().noise.copy()
        with session.fork() as other:
            drawn = other.generate_image(height=64, width=64, num_timesteps=3)
            given = noise.normal(16, 64)
        again = session.generate_image(height=64, width=64, num_timesteps=3, noise=given)
        assert np.array_equal(drawn.latent, again.latent)
