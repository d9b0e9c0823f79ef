"""`bagel-rt batch`: a file of requests, done once each, whatever happens in between."""

from __future__ import annotations

import json

import numpy as np
import pytest
from calls import FAST, run
from PIL import Image

import bagel_rt
from bagel_rt.cli.jsonl_requests import Batch, read_requests

LINES = [
    {"prompt": "a cube", "seed": 3, **FAST},
    {"id": "green", "prompt": "green", "image": "photo.png", "seed": 4, "num_timesteps": 3},
    {"id": "q", "task": "ask", "prompt": "what?", "image": ["photo.png", "photo.png"], "max_tokens": 6, "seed": 0},
    {"id": "many", "prompt": "b", "seed": [1, 2], **FAST},
]


@pytest.fixture
def file(tmp_path, photo):
    photo.save(tmp_path / "photo.png")
    return written(tmp_path, LINES)


def written(folder, lines):
    path = folder / "requests.jsonl"
    path.write_text("\n".join(json.dumps(line) if isinstance(line, dict) else line for line in lines) + "\n")
    return path


def results(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_every_line_gives_a_result_and_its_pictures(capsys, model, file, small_bagel, photo, tmp_path):
    out = tmp_path / "out"
    code, text, _ = run(capsys, "batch", file, "--out", out, "--backend", "onnxruntime")
    assert (code, text) == (0, f"{out / 'results.jsonl'}: 4 of 4 done, 0 of them before\n")
    cube, _, question, many = results(out)
    assert (cube["id"], cube["files"], cube["seeds"]) == ("00001", ["00001.png"], [3])
    assert question["text"] == small_bagel.ask("what?", [photo, photo], max_tokens=6).text
    assert many["files"] == ["many-1.png", "many-2.png"]
    drawn = {"00001.png": small_bagel.generate("a cube", seed=3, **FAST)}
    drawn["green.png"] = small_bagel.edit(photo, "green", seed=4, num_timesteps=3)
    drawn["many-2.png"] = small_bagel.generate("b", seed=2, **FAST)
    for name, result in drawn.items():
        assert np.array_equal(np.asarray(Image.open(out / name)), np.asarray(result.image))


def test_a_stopped_batch_goes_on_where_it_was(small_bagel, file, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    requests = read_requests(file)
    work = Batch(out, requests, small_bagel.model).run(small_bagel)
    first = next(work)
    next(work)
    work.close()
    with (out / "results.jsonl").open("a") as stream:
        stream.write('{"id": "q", "te')  # killed in the middle of a line
    (out / "green.png").unlink()  # and a picture was lost
    again = Batch(out, requests, small_bagel.model)
    assert [r.id for r in again.waiting] == ["green", "q", "many"]
    list(again.run(small_bagel))
    assert results(out)[0] == first
    assert [r["id"] for r in results(out)] == ["00001", "green", "q", "many"]
    assert Batch(out, requests, small_bagel.model).waiting == []


def test_a_request_that_fails_is_recorded_and_tried_again(capsys, model, photo, tmp_path):
    (tmp_path / "photo.png").write_text("no picture yet")
    file = written(tmp_path, LINES[:2])
    given = ["batch", file, "--out", tmp_path / "out", "--backend", "onnxruntime"]
    code, text, err = run(capsys, *given)
    assert code == 1
    assert "1 of 2 done" in text
    assert "1 requests failed" in err
    assert "photo.png: not a readable image" in results(tmp_path / "out")[1]["error"]
    photo.save(tmp_path / "photo.png")
    code, text, _ = run(capsys, *given)
    assert (code, "2 of 2 done, 1 of them before" in text) == (0, True)
    assert ["error" in r for r in results(tmp_path / "out")] == [False, False]


def test_results_of_other_requests_or_of_another_model_are_not_taken_for_these(small_bagel, file, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    list(Batch(out, read_requests(file)[:1], small_bagel.model).run(small_bagel))
    before = (out / "results.jsonl").read_bytes()
    other = read_requests(written(tmp_path, [{**LINES[0], "seed": 9}]))
    for requests, name in [(other, small_bagel.model), (read_requests(file), "another model")]:
        with pytest.raises(bagel_rt.InputError, match="00001 is of another request, preset or model"):
            Batch(out, requests, name)
    assert (out / "results.jsonl").read_bytes() == before


def test_a_preset_holds_for_the_file_and_a_lines_own_before_it(file, tmp_path):
    lines = [{"prompt": "a", "image": "photo.png"}, {"prompt": "a", "image": "photo.png", "preset": "rise"}]
    asked = [*lines, {"prompt": "a"}]
    with pytest.raises(bagel_rt.InputError, match="line 3: an edit needs"):
        read_requests(written(tmp_path, asked), "gedit")
    assert [r.preset for r in read_requests(written(tmp_path, lines), "gedit")] == ["gedit", "rise"]
    (vlm,) = read_requests(written(tmp_path, lines[:1]), "vlm")
    assert vlm.task == "ask"


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "line 2: Expecting"),
        ("[1]", 'line 2: a JSON object with a text "prompt"'),
        ({"image": "photo.png"}, 'line 2: a JSON object with a text "prompt"'),
        ({"prompt": "a", "id": "../a"}, "line 2: id is '../a'"),
        ({"prompt": "a", "id": "00001"}, "line 2: id '00001' was used before"),
        ({"prompt": "a", "image": "no.png"}, "no.png: no such image file"),
        ({"prompt": "a", "image": 3}, "a path or a list of paths"),
        ({"prompt": "a", "task": "paint"}, "allowed: generate, edit, ask"),
        ({"prompt": "a", "task": "generate", "image": "photo.png"}, "generate takes no"),
        ({"prompt": "a", "cfg_text_scal": 1}, "did you mean cfg_text_scale"),
        ({"prompt": "a", "num_timesteps": 1}, "num_timesteps is 1"),
        ({"prompt": "a", "seed": []}, "empty list"),
        ({"prompt": "a", "preset": "nice"}, "preset is 'nice'"),
        ({"prompt": "a", "preset": "gedit", "task": "ask"}, "preset gedit is for edit"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_done(capsys, model, photo, tmp_path, line, message):
    photo.save(tmp_path / "photo.png")
    file = written(tmp_path, [LINES[0], line])
    code, _, err = run(capsys, "batch", file, "--out", tmp_path / "out")
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_file_or_folder_that_does_not_fit_is_refused(capsys, model, file, tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "results.jsonl").write_text("something else\nentirely\n")
    for given, message in [
        ([tmp_path / "no.jsonl", "--out", tmp_path / "out"], "not readable"),
        ([tmp_path / "empty.jsonl", "--out", tmp_path / "out"], "holds no requests"),
        ([file, "--out", tmp_path / "no" / "out"], "no such folder"),
        ([file, "--out", file], "is not a folder"),
        ([file, "--out", tmp_path / "full", "--backend", "onnxruntime"], "line 1: not a result"),
    ]:
        code, _, err = run(capsys, "batch", *given)
        assert (code, message in err) == (2, True), err
    assert (tmp_path / "full" / "results.jsonl").read_text() == "something else\nentirely\n"
