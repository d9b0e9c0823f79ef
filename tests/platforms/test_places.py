"""A process in odd surroundings: no home, one CPU, a small or missing scratch disk, another locale, strict Python."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

import bagel_rt
from bagel_rt.estimate import free_memory

DRAW = [
    "generate",
    "--model",
    "bagel-nano",
    "--backend",
    "onnxruntime",
    "--height",
    "32",
    "--width",
    "32",
    "--seed",
    "1",
]
QUICK = [*DRAW, "--num-timesteps", "3"]
ENGINES = ("onnxruntime", "openvino")


def environment(**changed: str | None) -> dict[str, str]:
    found = {**os.environ, **changed}
    return {name: value for name, value in found.items() if value is not None}


def drawn(folder: Path, *python: str, prompt: str = "a red ring", **changed: str | None) -> str:
    """What a command says that draws a picture; the picture is the folder's only file."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, *python, "-m", "bagel_rt", *QUICK, "--prompt", prompt, "--out", str(folder / "a.png")]
    done = subprocess.run(command, env=environment(**changed), capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in folder.iterdir()] == ["a.png"]
    assert Image.open(folder / "a.png").size == (32, 32)
    return done.stderr


@pytest.mark.parametrize("home", [None, "/nowhere/at/all", "a file"])
def test_a_picture_is_drawn_without_a_home_or_with_one_that_cannot_be_written(tmp_path, home):
    """A file stands for a folder that is read-only: nobody can make anything in it, not even root."""
    if home == "a file":
        home = str(tmp_path / "file")
        Path(home).write_text("")
    without = dict.fromkeys(("BAGEL_RT_HOME", "BAGEL_RT_CACHE", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"))
    drawn(tmp_path / "out", HOME=home, **without)


def test_a_choice_that_cannot_be_kept_is_said_with_its_folder_where_the_home_is_read_only(tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "bagel_rt", "use", "bagel-nano"]
    there = environment(BAGEL_RT_HOME=str(tmp_path / "file" / "home"))
    done = subprocess.run(command, env=there, capture_output=True, text=True)
    assert done.returncode == 1
    assert str(tmp_path / "file" / "home") in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("python", [("-O",), ("-OO",), ("-W", "error"), ("-X", "dev", "-W", "ignore")], ids=" ".join)
def test_a_picture_is_drawn_by_a_python_that_leaves_asserts_out_or_takes_warnings_for_errors(tmp_path, python):
    drawn(tmp_path / "out", *python)


def test_a_prompt_in_any_letters_is_drawn_in_locale_c(tmp_path):
    drawn(tmp_path / "out", prompt="красный круг 红", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")


def test_no_scratch_disk_is_needed(tmp_path):
    """A /dev/shm of 64 MB, or a full /tmp, stops nothing: nothing is put there, and nothing is mapped from there."""
    (tmp_path / "file").write_text("")
    nowhere = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(tmp_path / "file" / "none"))
    drawn(tmp_path / "out", **nowhere)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("engine", ENGINES)
def test_an_open_model_has_nothing_in_dev_shm(engine):
    with bagel_rt.load("bagel-nano", engine) as bagel:
        bagel.ask("what is it?", max_tokens=2)
        mapped = Path("/proc/self/maps").read_text().splitlines()
        ours = [line for line in mapped if " /dev/shm/" in line and ".so" not in line and "bagel" in line.lower()]
        assert [line for line in ours if "weights.safetensors" not in line] == []  # which may lie anywhere


ONE_CPU = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import bagel_rt
with bagel_rt.load("bagel-nano", sys.argv[1]) as bagel:
    bagel.generate("a red ring", height=32, width=32, num_timesteps=3, seed=1)
    print(bagel.ask("what is it?", max_tokens=4, seed=1).token_ids)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not say which CPUs a process has")
@pytest.mark.parametrize("engine", ENGINES)
def test_one_cpu_is_enough_and_answers_the_same(engine):
    done = subprocess.run([sys.executable, "-c", ONE_CPU, engine], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with bagel_rt.load("bagel-nano", engine) as bagel:
        assert done.stdout.strip() == str(bagel.ask("what is it?", max_tokens=4, seed=1).token_ids)


SPAWNED = """
import multiprocessing, sys
import bagel_rt

def draw(engine):
    with bagel_rt.load("bagel-nano", engine) as bagel:
        return bagel.generate("a red ring", height=32, width=32, num_timesteps=3, seed=1).latent.tobytes()

if __name__ == "__main__":
    engine = sys.argv[1]
    own = draw(engine)
    with bagel_rt.load("bagel-nano", engine), multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(draw, (engine,)) == own)
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_spawned_process_draws_the_same_beside_an_open_model(tmp_path, engine):
    (tmp_path / "spawned.py").write_text(SPAWNED)
    done = subprocess.run(
        [sys.executable, tmp_path / "spawned.py", engine], capture_output=True, text=True, timeout=180
    )
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 1), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_in_the_middle_of_engine_calls_ends_a_command_with_its_code_and_leaves_no_file(tmp_path, number, code):
    command = [sys.executable, "-m", "bagel_rt", *DRAW, "--num-timesteps", "100000", "--prompt", "a", "--out"]
    child = subprocess.Popen(
        [*command, str(tmp_path / "a.png")], stderr=subprocess.PIPE, text=True,
        env=environment(PYTHONUNBUFFERED="1"),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    assert child.stderr is not None
    assert "bagel-rt:" in child.stderr.readline()  # the model is loaded, drawing begins
    time.sleep(1)
    child.send_signal(number)
    _, said = child.communicate(timeout=30)
    assert child.returncode == code, said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_clock_that_goes_back_changes_no_result_and_no_duration_is_negative(monkeypatch):
    with bagel_rt.load("bagel-nano", "onnxruntime") as bagel:
        how = {"height": 32, "width": 32, "num_timesteps": 3, "seed": 1}
        usual = bagel.generate("a red ring", **how)
        now = time.time()
        lock, ticks = threading.Lock(), iter(range(10**9))

        def backwards() -> float:
            with lock:
                return now - 3600.0 * next(ticks)

        monkeypatch.setattr(time, "time", backwards)
        again = bagel.generate("a red ring", **how)
        with bagel.session(seed=1) as session:
            session.add_text("a")
            session.generate_text(max_tokens=2)
    assert (again.latent == usual.latent).all()
    durations = [value for key, value in again.metadata().items() if "second" in key]
    assert all(value >= 0 for value in durations)


@pytest.fixture
def container(tmp_path, monkeypatch):
    """A container's files of memory, and a machine with 8 GiB to take."""

    def of(**files: str) -> int:
        for name, text in files.items():
            (tmp_path / f"memory.{name}").write_text(text)
        return free_memory.free_memory()

    monkeypatch.setattr(free_memory, "CGROUP", tmp_path)
    seen = psutil.virtual_memory()._replace(available=8 << 30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: seen)
    return of


def test_what_is_free_is_what_the_container_leaves_of_the_machine(container):
    assert container() == 8 << 30
    assert container(max="max\n", current="100\n") == 8 << 30
    assert container(max=f"{3 << 30}\n", current=f"{2 << 30}\n") == 1 << 30
    assert container(stat=f"anon 5\nactive_file {256 << 20}\ninactive_file {256 << 20}\n") == (1 << 30) + (512 << 20)
    assert container(max=f"{1 << 30}\n", stat="anon 5\n") == 0  # over its limit already
    assert container(max=f"{64 << 30}\n") == 8 << 30  # the machine has less
    assert container(max="nonsense") == 8 << 30
    assert container(max=f"{3 << 30}", stat="odd\n") == 1 << 30


def test_a_request_that_the_container_has_no_room_for_is_refused(container):
    with bagel_rt.load("bagel-nano", "onnxruntime") as bagel:
        container(max=f"{1 << 30}", current=f"{(1 << 30) - (8 << 20)}")
    with bagel_rt.load("bagel-nano", "onnxruntime") as bagel, pytest.raises(bagel_rt.InputError, match="are free"):
        bagel.generate("a red ring", num_timesteps=3)
