"""A model's own settings: what its calls begin with, on every way in, and what a mistake in them is answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from calls import run, same
from nano_copy import nano_copy, restated
from PIL import Image

import bagel_rt
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.inputs.brought_settings import settings_in
from bagel_rt.results import read_metadata

SETTINGS: dict[str, Any] = {
    "generate": {"cfg_text_scale": 1.0, "num_timesteps": 4},
    "edit": {"cfg_text_scale": 2.0, "num_timesteps": 3, "cfg_interval": [0.0, 0.5]},
    "interleave": {"num_timesteps": 5},
    "ask": {"max_tokens": 1},
}
STEPS = {"generate": 4, "edit": 3, "interleave": 5}
CAPTION = "what is in this picture?"
PHOTO = Image.new("RGB", (64, 64), "red")


def stored(folder: Path, settings: object) -> Path:
    return restated(nano_copy(folder), lambda stated: stated.update(settings=settings))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return stored(tmp_path_factory.mktemp("own") / "artefact", SETTINGS)


@pytest.fixture(scope="module")
def bagel(folder) -> Iterator[bagel_rt.Bagel]:
    with bagel_rt.load(folder, "onnxruntime") as bagel:
        yield bagel


def points(result: Any) -> int:
    return result.options["num_timesteps"]


def test_calls_begin_with_them_where_no_preset_is_named(bagel):
    drawn = bagel.generate("a ring", seed=1)
    assert same(drawn, bagel.generate("a ring", seed=1, preset="notebook", cfg_text_scale=1.0, num_timesteps=4))
    edited = bagel.edit(PHOTO, "make it blue", seed=1)
    assert (points(edited), edited.options["cfg_text_scale"], edited.options["cfg_interval"]) == (3, 2.0, [0.0, 0.5])
    assert points(bagel.interleave([PHOTO, "a ring"], seed=1)) == 5
    assert len(bagel.ask(CAPTION, PHOTO).token_ids) == 1 < len(bagel.ask(CAPTION, PHOTO, preset="notebook").token_ids)
    assert dict(bagel.settings) == SETTINGS


def test_a_named_preset_is_the_scripts_own_and_a_given_option_goes_before_all(bagel):
    assert points(bagel.generate("a ring", seed=1, num_timesteps=2)) == 2
    official = bagel.generate("a ring", seed=1, preset="notebook", num_timesteps=2)
    assert official.options["cfg_text_scale"] == 4.0
    assert points(bagel.interleave(["a ring"], seed=1, preset="model")) == 4
    assert points(bagel.interleave([PHOTO, "a ring"], seed=1, preset="model")) == 3


def test_a_sessions_turns_begin_with_them(bagel):
    with bagel.session(seed=1) as session:
        session.add_text("a ring")
        assert points(session.generate_image()) == 5
        session.add_text(CAPTION)
        assert len(session.generate_text().token_ids) == 1


def test_commands_begin_with_them(folder, tmp_path, capsys):
    PHOTO.save(tmp_path / "photo.png")
    for task, image in (("generate", ()), ("edit", ("--image", tmp_path / "photo.png"))):
        out = tmp_path / f"{task}.png"
        how = (task, "--model", folder, *image, "--prompt", "a ring", "--seed", 1, "--backend", "onnxruntime")
        assert run(capsys, *how, "--out", out)[0] == 0
        assert read_metadata(out)["options"]["num_timesteps"] == STEPS[task]
    planned = run(capsys, "plan", "--model", folder, "--no-time", "--backend", "onnxruntime")[1]
    assert "a picture of 64x64, 4 points" in planned
    assert "generate begins with cfg_text_scale 1.0, num_timesteps 4" in run(capsys, "info", folder)[1]


def test_a_batch_begins_with_them_and_a_line_that_asks_for_the_notebooks_is_another_request(folder, tmp_path, capsys):
    batch = ("batch", tmp_path / "requests.jsonl", "--model", folder, "--out", tmp_path / "out")
    found = []
    for line in ({}, {}, {"preset": "notebook", "num_timesteps": 4}):
        (tmp_path / "requests.jsonl").write_text(json.dumps({"prompt": "a ring", "seed": 1, **line}))
        code, out, _ = run(capsys, *batch, "--backend", "onnxruntime")
        drawn = read_metadata(tmp_path / "out" / "00001.png")
        found.append((code, ", 1 of them before" in out, drawn["options"]["cfg_text_scale"]))
    assert found == [(0, False, 1.0), (0, True, 1.0), (2, False, 1.0)]  # results of other requests are not written over


@pytest.mark.parametrize("script, wanted", [(None, 5), ("model", 4), ("notebook", 50)])
def test_a_kept_conversation_of_the_server_spells_a_preset_out_against_them(script, wanted):
    from bagel_rt.options.defaults import with_values
    from bagel_rt.options.presets import INTERLEAVE, defaults
    from bagel_rt.serve.turns import session_options

    given = session_options(SETTINGS, "image", script, {}, pictures=False)
    assert with_values(defaults(INTERLEAVE, None, SETTINGS), given).num_timesteps == wanted


def test_the_servers_requests_begin_with_them(bagel):
    from live_server import Lent, serving

    seen = []

    class Watched(Lent):
        def stream(self, *items: Any, **how: Any) -> Any:
            for event in self._bagel.stream(*items, **how):
                seen.append(event)
                yield event

    with serving(lambda: Watched(bagel)) as live:
        assert live.post("/v1/images/generations", {"prompt": "a ring", "seed": 1}).status_code == 200
    assert points(seen[-1].result) == 4


MISTAKES = [
    ("[draw]\nseed = 1", "unknown key 'draw'; known: generate, edit, interleave, ask"),
    ("[generate]\nnum_timestep = 8", "[generate] unknown option 'num_timestep'; did you mean num_timesteps?"),
    ("[edit]\ncfg_interval = [0.5, 0.1]", "[edit] cfg_interval"),
    ("[ask]\nmax_tokens = 0", "[ask] max_tokens is 0"),
    ("[generate]\nseed = 1", "[generate] seed is of a single call; leave it out"),
    ("generate = 3", "[generate] it is 3; a table is expected"),
    ("[generate", "not readable as TOML"),
]


@pytest.mark.parametrize("text, words", MISTAKES)
def test_a_mistake_in_a_file_is_named_before_anything_is_exported(text, words, quick_checkpoint, tmp_path, capsys):
    (tmp_path / "mine.toml").write_text(text)
    how = ("export", "--ckpt", quick_checkpoint, "--out", tmp_path / "artefact", "--settings", tmp_path / "mine.toml")
    code, _, err = run(capsys, *how)
    assert (code, (tmp_path / "artefact").exists()) == (2, False)
    assert f"{tmp_path / 'mine.toml'}: " in err
    assert words in err


def test_an_export_keeps_a_files_settings(quick_checkpoint, tmp_path, capsys):
    (tmp_path / "mine.toml").write_text("[ask]\nmax_tokens = 3\n")
    how = ("--task", "understand", "--no-verify", "--settings", tmp_path / "mine.toml")
    assert run(capsys, "export", "--ckpt", quick_checkpoint, "--out", tmp_path / "artefact", *how)[0] == 0
    assert settings_in(read_manifest(tmp_path / "artefact")) == {"ask": {"max_tokens": 3}}


@pytest.mark.parametrize("settings", [[], {"draw": {}}, {"edit": {"cfg_text_scale": "much"}}, {"edit": {"mask": 1}}])
def test_an_artefact_whose_settings_are_wrong_is_refused_by_its_manifests_name(settings, tmp_path, capsys):
    folder = stored(tmp_path / "artefact", settings)
    with pytest.raises(bagel_rt.ArtefactError, match=r"bagel_rt\.json, settings: "):
        bagel_rt.load(folder, "onnxruntime")
    assert run(capsys, "info", folder)[:2] == (2, "")
