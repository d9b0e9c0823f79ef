"""`bagel-rt batch`: a file of requests, done once each, whatever happens in between."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from calls import FAST, run
from PIL import Image

import bagel_rt
from bagel_rt.cli.batch_results import Batch
from bagel_rt.cli.jsonl_requests import read_requests
from bagel_rt.files.output_folder import output_folder
from bagel_rt.results import read_metadata

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
        ({"prompt": "a", "image": "."}, "is a folder; name an image file"),
        ('{"prompt": "a", "seed": ' + "9" * 5000 + "}", "line 2: a number has thousands of digits"),
        ('{"prompt": ' + "[" * 100_000, "line 2: brackets are nested too deeply"),
        ('{"prompt": "a", "prompt": "b"}', "line 2: key 'prompt' stands there twice"),
        ({"prompt": "a", "id": True}, "id is True"),
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
        ([tmp_path / "no.jsonl", "--out", tmp_path / "out"], "file not found"),
        ([tmp_path / "empty.jsonl", "--out", tmp_path / "out"], "holds no requests"),
        ([file, "--out", tmp_path / "no" / "out"], "no such folder"),
        ([file, "--out", file], "is not a folder"),
        ([file, "--out", tmp_path / "full", "--backend", "onnxruntime"], "line 1: not a result"),
    ]:
        code, _, err = run(capsys, "batch", *given)
        assert (code, message in err) == (2, True), err
    assert (tmp_path / "full" / "results.jsonl").read_text() == "something else\nentirely\n"


def drawn(small_bagel, folder, lines) -> list[dict]:
    """The results of a file of these lines in folder/out."""
    (folder / "out").mkdir(exist_ok=True)
    list(Batch(folder / "out", read_requests(written(folder, lines)), "m").run(small_bagel))
    return results(folder / "out")


def test_a_line_may_have_a_mask(small_bagel, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    mask = np.zeros((photo.height, photo.width), bool)
    mask[:, : photo.width // 2] = True
    Image.fromarray(mask).save(tmp_path / "mask.png")
    line = {"prompt": "green", "image": "photo.png", "mask": "mask.png", "seed": 4, "num_timesteps": 3}
    (record,) = drawn(small_bagel, tmp_path, [line])
    expected = small_bagel.edit(photo, "green", mask=mask, seed=4, num_timesteps=3).image
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / record["files"][0])), np.asarray(expected))


def test_no_two_pictures_have_one_name_on_any_file_system(small_bagel, tmp_path):
    lines = [
        {"id": "a", "prompt": "one", "seed": [1, 2], **FAST},
        {"id": "a-1", "prompt": "two", "seed": 3, **FAST},
        {"id": "A-1", "prompt": "three", "seed": 4, **FAST},
        {"id": "n" * 240, "prompt": "four", "seed": 5, **FAST},
        {"id": "con", "prompt": "five", "seed": 6, **FAST},
    ]
    found = drawn(small_bagel, tmp_path, lines)
    names = [name for record in found for name in record["files"]]
    assert len({name.lower() for name in names}) == len(names) == 6
    assert names[:2] == ["a-1.png", "a-2.png"]
    assert [record["id"] for record in found] == [line["id"] for line in lines]
    prompts = [read_metadata(tmp_path / "out" / name)["prompt"] for name in names]
    assert prompts == ["one", "one", "two", "three", "four", "five"]
    assert Batch(tmp_path / "out", read_requests(tmp_path / "requests.jsonl"), "m").waiting == []


def test_names_stay_as_they_are_when_lines_are_added_and_moved(small_bagel, tmp_path):
    two = {"id": "a-1", "prompt": "two", "seed": 3, **FAST}
    before = drawn(small_bagel, tmp_path, [two])
    after = drawn(small_bagel, tmp_path, [{"id": "a", "prompt": "one", "seed": [1, 2], **FAST}, two])
    assert after[0] == before[0]
    assert not set(after[0]["files"]) & set(after[1]["files"])


def test_a_file_that_is_no_result_is_not_written_over(small_bagel, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    bytes_before = (tmp_path / "photo.png").read_bytes()
    file = written(tmp_path, [{"id": "photo", "prompt": "green", "image": "photo.png", "seed": 1, "num_timesteps": 2}])
    list(Batch(tmp_path, read_requests(file), "m").run(small_bagel))
    (record,) = results(tmp_path)
    assert record["files"] != ["photo.png"]
    assert (tmp_path / "photo.png").read_bytes() == bytes_before
    assert Batch(tmp_path, read_requests(file), "m").waiting == []


@pytest.mark.parametrize("end", ["\u2028", "\u0085", "\u2029", "\x0b", "\x1e"])
def test_a_prompt_with_any_end_of_line_is_one_request_and_one_result(small_bagel, tmp_path, end):
    line = json.dumps({"prompt": f"a red{end}ring", "seed": 1, **FAST}, ensure_ascii=end in "\x0b\x1e")
    (record,) = drawn(small_bagel, tmp_path, [line])
    assert record["prompt"] == f"a red{end}ring"
    assert drawn(small_bagel, tmp_path, [line]) == [record]


def test_a_half_character_is_recorded_and_the_rest_is_done(small_bagel, tmp_path):
    lines = [{"prompt": "a \ud800", "seed": 1, **FAST}, {"prompt": "b", "seed": 1, **FAST}]
    for _ in range(2):
        found = {record["id"]: record for record in drawn(small_bagel, tmp_path, lines)}
        assert "half of a character" in found["00001"]["error"]
        assert found["00001"]["prompt"] == "a \ud800"
        assert found["00002"]["files"] == ["00002.png"]


@pytest.mark.parametrize("error", [RuntimeError("odd"), OSError(28, "No space left"), MemoryError()])
def test_whatever_one_request_raises_the_next_is_done_and_no_picture_is_left_without_a_line(
    small_bagel, tmp_path, monkeypatch, error
):
    real, times = Image.Image.save, []

    def save(*arguments, **more):
        times.append(1)
        if len(times) == 2:  # the second picture of the first request
            raise error
        real(*arguments, **more)

    monkeypatch.setattr(Image.Image, "save", save)
    lines = [{"id": "a", "prompt": "a", "seed": [1, 2], **FAST}, {"id": "b", "prompt": "b", "seed": 1, **FAST}]
    a, b = drawn(small_bagel, tmp_path, lines)
    assert ("error" in a, b["files"]) == (True, ["b.png"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b.png", "results.jsonl"]
    assert [record.get("files") for record in drawn(small_bagel, tmp_path, lines)] == [
        ["b.png"],
        ["a-1.png", "a-2.png"],
    ]


def test_a_request_is_what_it_asks_for_not_how_it_is_written_or_where_its_pictures_lie(photo, tmp_path, monkeypatch):
    def digests(folder, *lines, preset=None):
        return [request.digest("m") for request in read_requests(written(folder, list(lines)), preset)]

    photo.save(tmp_path / "photo.png")
    moved = tmp_path / "moved"
    moved.mkdir()
    photo.save(moved / "other.png")
    line = {"prompt": "green", "image": "photo.png", "seed": 4, "cfg_text_scale": 4}
    (digest,) = digests(tmp_path, line)
    monkeypatch.chdir(tmp_path)
    assert read_requests(Path("requests.jsonl"))[0].digest("m") == digest
    same = [
        {**line, "image": "other.png", "id": "x"},
        {**line, "image": [str(tmp_path / "photo.png")], "cfg_text_scale": 4.0, "task": "edit"},
        {**line, "image": "../photo.png", "preset": "notebook", "cfg_interval": [0, 1]},
    ]
    assert digests(moved, *same) == [digest] * 3
    photo.rotate(90).save(moved / "turned.png")
    others = [
        {**line, "image": "turned.png"},
        {**line, "image": ["other.png", "other.png"]},
        {**line, "image": "other.png", "seed": 5},
        {**line, "image": "other.png", "images": 1},
        {**line, "image": "other.png", "preset": "gedit"},
        {"prompt": "green", "image": "other.png", "cfg_text_scale": 4},
    ]
    found = {*digests(moved, *others), digest}
    assert len(found) == 7
    assert read_requests(tmp_path / "requests.jsonl")[0].digest("another model") not in found
    assert len(set(digests(moved, {"prompt": "a", "seed": 1, "images": 2}, {"prompt": "a", "seed": [1, 2]}))) == 1
    assert len(set(digests(moved, {"prompt": "a"}, {"prompt": "a", "images": 2}, {"prompt": "a", "images": 3}))) == 3


def test_a_batch_goes_on_from_another_folder_and_not_with_other_pixels(
    capsys, model, file, photo, tmp_path, monkeypatch
):
    written(tmp_path, LINES[1:2])
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "batch", "requests.jsonl", "--out", "out", "--backend", "onnxruntime")[0] == 0
    monkeypatch.chdir("/")
    code, out, _ = run(capsys, "batch", file, "--out", tmp_path / "out", "--backend", "onnxruntime")
    assert (code, "1 of 1 done, 1 of them before" in out) == (0, True)
    photo.rotate(180).save(tmp_path / "photo.png")
    code, _, err = run(capsys, "batch", file, "--out", tmp_path / "out", "--backend", "onnxruntime")
    assert (code, "green is of another request" in err) == (2, True)


def test_a_picture_that_changes_while_the_batch_runs_is_an_error_of_its_request(small_bagel, file, photo, tmp_path):
    (tmp_path / "out").mkdir()
    batch = Batch(tmp_path / "out", read_requests(file)[1:2], "m")
    photo.rotate(180).save(tmp_path / "photo.png")
    (record,) = batch.run(small_bagel)
    assert "photo.png: was changed after the batch had begun" in record["error"]


def test_results_of_an_earlier_version_are_named_as_such(file, tmp_path):
    (tmp_path / "out").mkdir()
    old = {"id": "q", "task": "ask", "prompt": "what?", "text": "a cat", "seed": 0, "request": "0123456789abcdef"}
    (tmp_path / "out" / "results.jsonl").write_text(json.dumps(old) + "\n")
    with pytest.raises(bagel_rt.InputError, match="its result q was written by an earlier bagel-rt"):
        Batch(tmp_path / "out", read_requests(file), "m")
    assert results(tmp_path / "out") == [old]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_with_a_byte_order_mark_and_windows_lines_is_read(tmp_path, encoding):
    text = "".join(json.dumps(line) + "\r\n" for line in ({"prompt": "a"}, {"prompt": "b"}))
    (tmp_path / "p.jsonl").write_bytes(text.encode(encoding))
    assert [request.prompt for request in read_requests(tmp_path / "p.jsonl")] == ["a", "b"]


def test_two_batches_do_not_write_into_one_folder_at_once(capsys, model, file, tmp_path):
    with output_folder(tmp_path / "out"):
        code, _, err = run(capsys, "batch", file, "--out", tmp_path / "out")
        assert (code, "another bagel-rt is writing there" in err) == (2, True)
        assert not (tmp_path / "out" / "results.jsonl").exists()


def test_a_place_that_cannot_be_written_is_found_before_a_model_is_loaded(capsys, model, file, tmp_path, monkeypatch):
    monkeypatch.setattr("bagel_rt.cli.batch.open_model", None)
    for out, message in ((tmp_path / ("n" * 250), "too long"), ("/proc/out", "cannot be written")):
        code, _, err = run(capsys, "batch", file, "--out", out)
        assert (code, message in err) == (2, True), err
