"""A system prompt stands first, in every context that think's own would stand in: given, the artefact's, or none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from calls import FAST, run, same

import bagel_rt
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.inputs.system_prompts import THINK_THEN_ANSWER, THINK_THEN_DRAW
from bagel_rt.options.encoding import Encoding
from bagel_rt.sampling.torch_noise import TorchNoise

RULES = "You draw with two colours at most.\nName them first."
SHORT: Any = {"max_tokens": 6}


@pytest.fixture(scope="module")
def keeping(small_artefact, tmp_path_factory) -> Path:
    """The random artefact, with a system prompt kept as the export writes it."""
    folder = shutil.copytree(small_artefact, tmp_path_factory.mktemp("keeping") / "artefact")
    change_manifest(folder, system_prompt=RULES)
    return folder


def change_manifest(folder: Path, **values: object) -> None:
    path = folder / "bagel_rt.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_given_as_system_the_official_prompts_do_what_think_does(small_bagel):
    asked = small_bagel.ask("what is it?", system=THINK_THEN_ANSWER, **SHORT)
    assert asked.token_ids == small_bagel.ask("what is it?", think=True, **SHORT).token_ids
    how = {**FAST, "seed": 1, "think": True, "max_think_tokens": 4}
    assert same(small_bagel.generate("a ring", system=THINK_THEN_DRAW, **how), small_bagel.generate("a ring", **how))


def test_a_system_prompt_stands_before_everything_in_every_branch_of_guidance(small_bagel):
    reader = small_bagel._turns.reader
    found = reader.read(["a ring"], RULES, Encoding(True, True, False), TorchNoise(1)).histories
    first, prompt = reader.text(RULES), reader.text("a ring")
    assert (found.cond, found.cfg_text, found.cfg_img) == ((first, prompt), (first,), (first, prompt))
    ruled = small_bagel.interleave(["a ring"], seed=1, system=RULES, **FAST)
    assert not same(ruled, small_bagel.interleave(["a ring"], seed=1, **FAST))
    assert (ruled.options["system"], ruled.prompt) == (RULES, "a ring")


def test_the_artefacts_own_prompt_is_used_unless_another_one_or_none_is_given(keeping, small_bagel):
    with bagel_rt.load(keeping, backend="onnxruntime") as bagel:
        for kept, given in ((None, RULES), ("", None), ("Draw.", "Draw.")):
            ours, theirs = (
                b.generate("a ring", seed=1, system=s, **FAST) for b, s in ((bagel, kept), (small_bagel, given))
            )
            assert same(ours, theirs), kept
        assert bagel.ask("why?", **SHORT).token_ids == small_bagel.ask("why?", system=RULES, **SHORT).token_ids
        with bagel.session(seed=1) as kept, small_bagel.session(seed=1, system=RULES) as given:
            for session in (kept, given):
                session.add_text("a ring")
            assert same(kept.generate_image(**FAST), given.generate_image(**FAST))
        assert bagel.model != small_bagel.model


def test_a_session_begins_with_its_system_prompt_and_records_it(small_bagel):
    with small_bagel.session(seed=1, system=RULES) as session:
        session.add_text("a ring")
        drawn = session.generate_image(**FAST)
        with pytest.raises(bagel_rt.InputError, match="system is chosen once for a session"):
            session.generate_image(system="Draw.")
    assert same(drawn, small_bagel.interleave(["a ring"], seed=1, system=RULES, **FAST))
    assert drawn.options["system"] == RULES


def test_commands_read_it_from_a_file_and_a_batch_from_its_key(capsys, model, tmp_path, small_bagel, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rules.txt").write_text(RULES + "\n")
    ask, how = ("ask", "--prompt", "why?", "--max-tokens", 6), ("--backend", "onnxruntime")
    code, out, _ = run(capsys, *ask, "--system", "rules.txt", *how)
    said = small_bagel.ask("why?", system=RULES, **SHORT).text
    assert (code, out) == (0, said + "\n")
    Path("all.jsonl").write_text(json.dumps({"prompt": "why?", "task": "ask", "system": RULES, **SHORT}))
    assert run(capsys, "batch", "all.jsonl", "--out", "done", *how)[0] == 0
    assert json.loads(Path("done/results.jsonl").read_text())["text"] == said
    code, _, err = run(capsys, *ask, "--system", "rule.txt")
    assert code == 2
    assert "rule.txt: file not found" in err


def test_an_artefact_keeps_the_prompt_that_it_was_exported_with(quick_checkpoint, tmp_path, capsys):
    (tmp_path / "rules.txt").write_text(RULES + "\n")
    (tmp_path / "empty.txt").write_text("\n")
    out = tmp_path / "artefact"
    how = ("export", "--ckpt", quick_checkpoint, "--out", out, "--task", "understand", "--no-verify")
    code, _, err = run(capsys, *how, "--system", tmp_path / "empty.txt")
    assert (code, "the system prompt is empty" in err, out.exists()) == (2, True, False)
    assert run(capsys, *how, "--system", tmp_path / "rules.txt")[0] == 0
    assert read_manifest(out).system == RULES
    assert "system prompt: 'You draw" in run(capsys, "info", out)[1]


def test_a_manifest_whose_prompt_is_no_text_is_named(keeping, tmp_path):
    folder = shutil.copytree(keeping, tmp_path / "artefact")
    change_manifest(folder, system_prompt=["a"])
    with pytest.raises(bagel_rt.ArtefactError, match=r"system_prompt \['a'\], a text is expected"):
        bagel_rt.load(folder)
