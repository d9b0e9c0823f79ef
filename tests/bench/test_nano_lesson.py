"""bagel-nano's lesson in reasoning, as its checkpoint has it: what is left is drawn, looked at, and counted."""

from __future__ import annotations

from pathlib import Path

import pytest

import bagel_rt
from bagel_export.artefact.export import export
from bagel_export.checkpoint.sources import Asked
from bench.nano import score_left

NANO = Path(score_left.__file__).parent
STYLE = NANO / "reasoning.toml"


@pytest.mark.bench
def test_the_lessons_checkpoint_draws_what_is_left_and_counts_it(tmp_path):
    ckpt = Asked(str(NANO / "lesson"), str(NANO / "bagel-nano"))
    for _ in export(ckpt, tmp_path / "lesson", precision="int8", verify=False, style=STYLE):
        pass
    with bagel_rt.load(tmp_path / "lesson", "onnxruntime") as bagel:
        assert bagel.style is not None
        found = [score_left.judged(bagel, given) for given in enumerate(score_left.cases(24))]
    assert sum(one[score_left.PICTURES] for one in found) >= 10  # 14 when this was written
    assert sum(one[score_left.DRAWN] for one in found) >= 12
