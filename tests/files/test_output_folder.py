"""A folder of results has one writer at a time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

import bagel_rt
from bagel_rt.files import output_folder as module
from bagel_rt.files.output_folder import output_folder, sole_writer


def test_a_folder_is_made_and_goes_when_it_stays_empty(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RuntimeError), output_folder(out):
        assert out.is_dir()
        raise RuntimeError
    assert not out.exists()
    with output_folder(out):
        (out / "a").touch()
    assert [path.name for path in out.iterdir()] == ["a"]
    (out / "a").unlink()
    with output_folder(out):
        pass
    assert list(out.iterdir()) == []  # it was there before


def test_a_second_writer_is_refused_until_the_first_ends_however_it_ends(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from bagel_rt.files.output_folder import output_folder\n"
        "with output_folder(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "in\n"
    with pytest.raises(bagel_rt.InputError, match="another bagel-rt is writing there"), output_folder(tmp_path):
        pass
    other.kill()
    other.wait()
    with output_folder(tmp_path):
        (tmp_path / "a").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_lock_whose_file_was_taken_away_is_not_ours(tmp_path, monkeypatch):
    real, times = module._lock, []

    def late(descriptor):
        real(descriptor)
        times.append(1)
        if len(times) == 1:  # between opening and locking, the holder before us ended
            (tmp_path / module.LOCK).unlink()

    monkeypatch.setattr(module, "_lock", late)
    with sole_writer(tmp_path):
        assert (tmp_path / module.LOCK).exists()
    assert len(times) == 2


def test_a_file_system_without_locks_lets_everybody_in(tmp_path, monkeypatch):
    def none(_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(module, "_lock", none)
    with sole_writer(tmp_path), sole_writer(tmp_path):
        pass
