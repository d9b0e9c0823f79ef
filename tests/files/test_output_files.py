"""Files are checked before the work, appear whole or not at all, and take nobody's place."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path

import pytest

import bagel_rt
from bagel_rt.files.output_files import check_file, check_folder, replacing, write_bytes, write_to_free


def refusing(error: int):
    def fail(path, *_, **__):
        raise OSError(error, os.strerror(error), str(path))

    return fail


@pytest.mark.parametrize("check", [check_file, check_folder])
@pytest.mark.parametrize(
    "name, message",
    [
        ("no/a", "no: no such folder; make it first"),
        ("file/a", "file: is not a folder"),
        ("n" * 240, "the name is too long for this file system"),
        ("n" * 300, "the name is too long for this file system"),
        ("ok", None),
    ],
)
def test_a_place_that_cannot_be_written_is_found_and_nothing_is_left_there(tmp_path, check, name, message):
    (tmp_path / "file").touch()
    if message is None:
        check(tmp_path / name)
    else:
        with pytest.raises(bagel_rt.InputError, match=message):
            check(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_no_file_and_a_file_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(bagel_rt.InputError, match="is a folder; name a file"):
        check_file(tmp_path)
    with pytest.raises(bagel_rt.InputError, match="exists and is not a folder"):
        check_folder(tmp_path / "file")
    check_file(tmp_path / "file")
    check_folder(tmp_path)


@pytest.mark.parametrize(
    "error, message",
    [(errno.EROFS, "is read-only"), (errno.EACCES, "no leave"), (errno.ENOSPC, "No space left"), (errno.EIO, "rror")],
)
def test_what_the_system_says_of_a_place_becomes_words(tmp_path, monkeypatch, error, message):
    monkeypatch.setattr(os, "open", refusing(error))
    for check in (check_file, lambda path: check_folder(path.parent)):
        with pytest.raises(bagel_rt.InputError, match=message):
            check(tmp_path / "a")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_leave_is_found(tmp_path):
    tmp_path.chmod(0o500)
    for check in (check_file, check_folder):
        with pytest.raises(bagel_rt.InputError, match="no leave"):
            check(tmp_path / "a")
    tmp_path.chmod(0o700)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_file_system_that_takes_no_files_is_found():
    with pytest.raises(bagel_rt.InputError, match="cannot be written"):
        check_file(Path("/proc/x.png"))


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert ([p.name for p in tmp_path.iterdir()], path.read_text()) == (["a.txt"], "old")
    write_bytes(path, b"new")
    assert ([p.name for p in tmp_path.iterdir()], path.read_text()) == (["a.txt"], "new")


def test_a_disk_that_fails_is_named_with_the_target_not_the_hidden_file(tmp_path):
    with pytest.raises(bagel_rt.OutputError, match=r"a\.txt: cannot be written, No space left on device") as caught:
        with replacing(tmp_path / "a.txt") as partial:
            refusing(errno.ENOSPC)(partial)
    assert "partial" not in str(caught.value)
    assert isinstance(caught.value, OSError)


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe, seen = tmp_path / "pipe", []
    os.mkfifo(pipe)
    check_file(pipe)
    reader = threading.Thread(target=lambda: seen.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, b"through")
    reader.join(10)
    assert (seen, pipe.is_fifo()) == ([b"through"], True)


@pytest.mark.parametrize("links", [True, False])
def test_the_first_free_name_is_taken_and_nothing_is_written_over(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    (tmp_path / "1").write_text("mine")
    (tmp_path / "2").symlink_to("nowhere")
    path = write_to_free((tmp_path / str(n) for n in count(1)), lambda partial: partial.write_text("new"))
    assert (path.name, path.read_text(), (tmp_path / "1").read_text()) == ("3", "new", "mine")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2", "3"]


@pytest.mark.parametrize("links", [True, False])
def test_processes_at_once_never_get_the_same_name(tmp_path, links):
    code = (
        "import os, sys; from pathlib import Path; from itertools import count\n"
        "from bagel_rt.files.output_files import write_to_free\n"
        "def no(*_): raise OSError(1, 'no links here')\n"
        f"if not {links}: os.link = no\n"
        "for i in range(20):\n"
        "    names = (Path(sys.argv[1], f'{n}.txt') for n in count(1))\n"
        "    write_to_free(names, lambda partial: partial.write_text(f'{os.getpid()} {i}'))"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(4)]
    assert [job.wait(60) for job in jobs] == [0] * 4
    said = {path.read_text() for path in tmp_path.iterdir()}
    assert len(said) == len(list(tmp_path.iterdir())) == 80


def test_names_are_tried_only_after_the_file_is_whole(tmp_path):
    def fail(partial):
        partial.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(bagel_rt.OutputError, match="No space left on device"):
        write_to_free(iter([tmp_path / "a"]), fail)
    assert list(tmp_path.iterdir()) == []
