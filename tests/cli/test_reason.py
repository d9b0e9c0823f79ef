"""`bagel-rt reason`, and a style that lives in an artefact."""

from __future__ import annotations

import json

import pytest
from calls import run
from PIL import Image

import bagel_rt
from bagel_rt.files.transcript import transcript

SMALL = ["--num-timesteps", "3", "--max-tokens", "4", "--seed", "1", "--backend", "onnxruntime"]
STYLE = """
name = "mine"
[turns]
next = "always"
most_turns = 3
[image]
height = 64
width = 64
"""
TALKS = 'name = "talks"\n[turns]\nnext = "never"\n[contexts]\nkept = false\ntext_view = "vit"\n'


def test_reason_leaves_numbered_pictures_a_transcript_that_shows_them_and_a_record(
    capsys, model, tmp_path, small_bagel, photo
):
    (tmp_path / "mine.toml").write_text(STYLE)
    photo.save(tmp_path / "photo.png")
    given = ["--image", tmp_path / "photo.png", "--prompt", "how many <b>?", "--style", tmp_path / "mine.toml"]
    code, out, _ = run(capsys, "reason", *given, "--out", tmp_path / "out", *SMALL)
    assert code == 0
    wanted = small_bagel.reason(
        "how many <b>?", photo, style=tmp_path / "mine.toml", seed=1, max_tokens=4, num_timesteps=3
    )
    folder = tmp_path / "out"
    assert sorted(path.name for path in folder.iterdir()) == [
        "given-1.png", "picture-1.png", "result.json", "transcript.md"
    ]  # fmt: skip
    assert Image.open(folder / "picture-1.png").tobytes() == wanted.pictures[0].image.tobytes()
    told = (folder / "transcript.md").read_text()
    assert told.startswith("# how many \\<b\\>?\n\n![given: given-1.png](given-1.png)\n\n> ")
    assert "![drawn: picture-1.png](picture-1.png)" in told
    record = json.loads((folder / "result.json").read_text())
    assert [next(iter(part)) for part in record["parts"]] == ["text", "picture", "text"]
    assert (record["stopped"], record["style"], record["seed"]) == ("most_turns", "mine", 1)
    assert record["answer"] == wanted.answer
    assert f"{folder / 'picture-1.png'}: seed 2\n" in out
    assert out.endswith(f"answer: {wanted.answer}\n")


def test_what_is_wrong_is_said_before_a_model_is_loaded_and_leaves_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("BAGEL_RT_MODEL", str(tmp_path / "no-model"))
    (tmp_path / "bad.toml").write_text('name = "x"\n[turns]\nnext = "maybe"\n')
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "transcript.md").write_text("mine")
    usual = {"--prompt": "a", "--out": tmp_path / "out"}
    wrong = [
        ({"--style": "zebra"}, "did you mean zebra-cot?"),
        ({"--style": tmp_path / "bad.toml"}, "bad.toml: [turns] next is 'maybe'; allowed: tag, token"),
        ({"--max-pictures": "-1"}, "--max-pictures is -1; an integer of 0 or more is expected"),
        ({"--image": tmp_path / "none.png"}, "none.png: no such image file"),
        ({"--out": tmp_path / "taken"}, "holds a transcript.md already; name another folder"),
        ({"--steps": "3"}, "unknown option --steps"),
    ]
    for more, words in wrong:
        arguments = [word for pair in {**usual, **more}.items() for word in pair]
        code, out, err = run(capsys, "reason", *arguments)
        assert (code, out) == (2, "")
        assert words in err
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "taken" / "transcript.md").read_text() == "mine"


def test_an_artefact_keeps_the_style_it_was_exported_with_and_load_takes_it(quick_checkpoint, tmp_path, capsys):
    (tmp_path / "talks.toml").write_text(TALKS)
    out = tmp_path / "model"
    how = ("export", "--ckpt", quick_checkpoint, "--out", out, "--task", "understand", "--no-verify")
    assert run(capsys, *how, "--style", "zebra")[0] == 2
    assert not out.exists()
    assert run(capsys, *how, "--style", tmp_path / "talks.toml")[0] == 0
    assert "reasons as style talks" in run(capsys, "info", out)[1]
    with bagel_rt.load(out, backend="onnxruntime") as bagel:
        assert bagel.style is not None
        assert bagel.style.name == "talks"
        assert bagel.reason("a", max_tokens=3, seed=1).style == "talks"
        with bagel.session(seed=1) as session:
            assert session.reason("a", max_tokens=3).style == "talks"
        with pytest.raises(bagel_rt.InputError, match="exported with --task understand"):
            bagel.reason("a", style="zebra-cot")
    manifest = json.loads((out / "bagel_rt.json").read_text())
    manifest["style"]["turns"]["next"] = "sometimes"
    (out / "bagel_rt.json").write_text(json.dumps(manifest))
    with pytest.raises(bagel_rt.ArtefactError, match=r"bagel_rt\.json, style: \[turns\] next is 'sometimes'"):
        bagel_rt.load(out, backend="onnxruntime")


def test_a_transcript_shows_words_as_they_are_whatever_markdown_makes_of_them():
    told = transcript("a\nb", [], [("text", "<answer> 1 *2* </answer>\n# x"), ("text", " ")], ["by me"])
    assert told == "# a b\n\n> \\<answer\\> 1 \\*2\\* \\</answer\\>  \n> \\# x  \n\n> (no words)\n\n---\n\nby me\n"
