"""The command line as a user meets it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from calls import run
from checkpoints import of, pair, write_adapter
from PIL import Image

import bagel_rt
from bagel_rt.artefact.contract import FORMAT_VERSION

SMALL = ["--height", "64", "--width", "64", "--num-timesteps", "3", "--seed", "1", "--backend", "onnxruntime"]


def test_generate_writes_a_picture_with_its_record_and_info_reads_it(capsys, model, tmp_path):
    target = tmp_path / "tree.png"
    code, out, err = run(capsys, "generate", "--prompt", "a tree", "--out", target, *SMALL)
    assert code == 0
    assert out == f"{target}: 64x64, seed 1\n"
    assert len([line for line in err.splitlines() if str(model) in line]) == 1
    assert "onnxruntime" in err
    assert Image.open(target).size == (64, 64)
    code, out, _ = run(capsys, "info", target)
    assert code == 0
    assert "a tree" in out
    code, out, _ = run(capsys, "info", "--json", target)
    assert json.loads(out)["options"]["num_timesteps"] == 3


def test_the_command_line_draws_what_the_api_draws(capsys, model, tmp_path, small_bagel):
    photo = Image.fromarray(np.random.default_rng(5).integers(0, 256, (70, 100, 3)).astype(np.uint8))
    photo.save(tmp_path / "photo.png")
    given = ["--image", tmp_path / "photo.png", "--prompt", "green", "--out", tmp_path / "green.png"]
    code, _, _ = run(
        capsys, "edit", *given, *SMALL, "--cfg-interval", "0.1", "0.9", "--no-vae-sample", "--cfg-img-scale", "1.7"
    )
    assert code == 0
    options = {"seed": 1, "height": 64, "width": 64, "num_timesteps": 3}
    wanted = small_bagel.edit(photo, "green", cfg_interval=(0.1, 0.9), vae_sample=False, cfg_img_scale=1.7, **options)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "green.png")), np.asarray(wanted.image))


def test_several_pictures_are_numbered_and_presets_and_plans_reach_the_call(capsys, model, tmp_path, small_bagel):
    target = tmp_path / "tree.png"
    given = ["--prompt", "a tree", "--out", target, *SMALL, "--preset", "wise", "--max-think-tokens", "4"]
    code, out, _ = run(capsys, "generate", *given, "--images", "2", "--negative-prompt", "b")
    how = {"preset": "wise", "max_think_tokens": 4, "negative_prompt": "b", "height": 64, "width": 64}
    wanted = small_bagel.generate("a tree", images=2, seed=1, num_timesteps=3, **how)
    names = [tmp_path / f"tree-{i}.png" for i in (1, 2)]
    drawn = list(zip(wanted, names, strict=True))
    assert (code, out) == (0, "".join(f"{r.text}\n{name}: 64x64, seed {r.seed}\n" for r, name in drawn))
    for result, name in drawn:
        assert np.array_equal(np.asarray(Image.open(name)), np.asarray(result.image))
    code, out, _ = run(capsys, "generate", *given, "--no-think")
    assert (code, out) == (0, f"{target}: 64x64, seed 1\n")


def test_ask_prints_the_answer(capsys, model, tmp_path, small_bagel):
    Image.new("RGB", (80, 80), "red").save(tmp_path / "red.png")
    code, out, _ = run(
        capsys, "ask", "--image", tmp_path / "red.png", "--image", tmp_path / "red.png", "--prompt", "what?",
        "--max-tokens", "9", "--backend", "onnxruntime",
    )  # fmt: skip
    picture = Image.new("RGB", (80, 80), "red")
    assert code == 0
    assert out == small_bagel.ask("what?", [picture, picture], max_tokens=9).text + "\n"


def test_no_metadata_leaves_none(capsys, model, tmp_path):
    code, _, _ = run(capsys, "generate", "--prompt", "secret", "--out", tmp_path / "a.png", "--no-metadata", *SMALL)
    assert code == 0
    code, _, err = run(capsys, "info", tmp_path / "a.png")
    assert code == 2
    assert "no bagel-rt record" in err


def test_without_out_the_next_free_name_is_taken(capsys, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bagel-1.png").write_bytes(b"mine")
    code, out, _ = run(capsys, "generate", "--prompt", "a", *SMALL)
    assert (code, out.split(":")[0]) == (0, "bagel-2.png")
    assert (tmp_path / "bagel-1.png").read_bytes() == b"mine"


def test_info_describes_the_artefact(capsys, model):
    code, out, _ = run(capsys, "info")
    assert code == 0
    assert "gen_step" in out
    assert "2 layers of 64" in out
    code, out, _ = run(capsys, "info", "--json", model)
    assert json.loads(out)["format_version"] == FORMAT_VERSION


def test_verify_accepts_a_whole_artefact_and_finds_one_flipped_byte(capsys, small_artefact, tmp_path):
    code, out, _ = run(capsys, "verify", "--model", small_artefact, "--backend", "onnxruntime")
    assert code == 0
    assert "files as stored" in out
    shutil.copytree(small_artefact, tmp_path / "copy")
    with (tmp_path / "copy" / "weights.safetensors").open("r+b") as stream:
        stream.seek(9_000_000)
        byte = stream.read(1)
        stream.seek(9_000_000)
        stream.write(bytes([byte[0] ^ 1]))
    code, _, err = run(capsys, "verify", "--model", tmp_path / "copy")
    assert code == 2
    assert "weights.safetensors: its sha256 is not the manifest's" in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--out", "{tmp}/no/folder.png"], "no such folder"),
        (["--out", "{tmp}/a.xyz"], "unknown image format"),
        (["--out", "{tmp}"], "unknown image format"),
        (["--num-timesteps", "1"], "num_timesteps is 1"),
        (["--num-timesteps", "many"], "invalid int"),
        (["--cfg-text-scale", "nan"], "finite"),
        (["--cfg-interval", "0.9", "0.1"], "lower bound"),
        (["--cfg-renorm-type", "local"], "allowed: global"),
        (["--height", "100"], "nearest is height 96"),
        (["--backend", "magic"], "allowed: auto"),
        (["--threads", "0"], "threads is 0"),
        (["--images", "0"], "images is 0"),
        (["--preset", "gedit"], "preset gedit is for edit"),
        (["--model", "{tmp}/nothing"], "not a bagel-rt artefact"),
        (["--frobnicate"], "unknown option --frobnicate"),
    ],
)
def test_bad_input_ends_in_one_line_and_leaves_nothing(capsys, model, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "generate", "--prompt", "a", *[a.format(tmp=tmp_path) for a in arguments])
    assert code == 2
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_disk_error_is_one_line_and_leaves_nothing(capsys, model, tmp_path, monkeypatch):
    def fail(self, path, **_):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Image.Image, "save", fail)
    code, _, err = run(capsys, "generate", "--prompt", "a", "--out", tmp_path / "a.png", *SMALL)
    assert code == 1
    assert "No space left on device" in err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_image_is_named(capsys, model, tmp_path):
    code, _, err = run(capsys, "edit", "--image", tmp_path / "no.png", "--prompt", "a", "--out", tmp_path / "o.png")
    assert code == 2
    assert "no.png: no such image file" in err


COMMANDS = ["export", "use", "generate", "edit", "ask", "chat", "frames", "batch", "info", "verify", "demo"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "usage: bagel-rt" in out


def test_help_shows_the_defaults_of_the_option_classes(capsys):
    _, out, _ = run(capsys, "edit", "--help")
    text = " ".join(out.split())
    assert "(default: text_channel)" in text
    assert "(default: 2.0)" in text


def test_an_exported_artefact_is_used_where_it_can(capsys, quick_checkpoint, tmp_path):
    given = ["--ckpt", quick_checkpoint, "--out", tmp_path / "art", "--task", "understand", "--no-verify", "--default"]
    code, out, err = run(capsys, "export", *given)
    assert (code, out) == (0, f"{tmp_path / 'art'}\n")
    assert f"commands without --model now use {tmp_path / 'art'}" in err
    code, _, err = run(capsys, "generate", "--prompt", "a")
    assert code == 2
    assert "--task understand" in err
    code, _, err = run(capsys, "ask", "--prompt", "a", "--max-tokens", "3")
    assert code == 0
    assert "(chosen with 'bagel-rt use')" in err


def python(code: str, *arguments, **more) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False, **more
    )


def test_importing_the_package_is_fast_and_light():
    code = (
        "import sys, time; t = time.perf_counter(); import bagel_rt; t = time.perf_counter() - t\n"
        "heavy = {'torch', 'transformers', 'onnxruntime', 'openvino', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(t)"
    )
    times = []
    for _ in range(5):
        done = python(code)
        assert done.returncode == 0, done.stderr
        times.append(float(done.stdout))
    assert min(times) < 0.3


def test_a_picture_is_drawn_where_torch_cannot_be_imported(small_artefact, tmp_path):
    code = (
        "import sys\n"
        "class Wall:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'transformers', 'onnxscript', 'bagel_export'):\n"
        "            raise ModuleNotFoundError(f'no {name} here', name=name)\n"
        "sys.meta_path.insert(0, Wall())\n"
        "from bagel_rt.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    given = ["generate", "--model", small_artefact, "--prompt", "a", "--out", tmp_path / "a.png", *SMALL]
    done = python(code, *given)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "a.png").size == (64, 64)
    done = python(code, "export", "--ckpt", tmp_path, "--out", tmp_path / "art")
    assert done.returncode == 2
    assert "pip install 'bagel-rt[export]'" in done.stderr


def test_ctrl_c_ends_cleanly_and_leaves_no_file(small_artefact, tmp_path):
    given = ["generate", "--model", small_artefact, "--prompt", "a", "--num-timesteps", "100000"]
    child = subprocess.Popen(
        [sys.executable, "-m", "bagel_rt.cli", *map(str, given), "--out", str(tmp_path / "a.png")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    assert child.stderr is not None
    assert "bagel-rt:" in child.stderr.readline()  # the model is loaded, drawing begins
    time.sleep(2)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 1
    assert "interrupted" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_the_demo_draws_edits_thinks_and_answers_with_the_bundled_model(capsys, tmp_path):
    from bagel_rt.cli import demo

    assert run(capsys, "demo", "--out", tmp_path / "none" / "demo")[0] == 2
    code, out, _ = run(capsys, "demo", "--out", tmp_path / "demo", "--backend", "onnxruntime")
    assert code == 0
    names = {p.name for p in (tmp_path / "demo").iterdir()}
    assert names == {f"drawn-{i}.png" for i in (1, 2, 3, 4)} | {f"edited-{i}.png" for i in (1, 2, 3)} | {
        "thought.png",
        "sheet.png",
    }
    for text in (*demo.DRAWN, *demo.EDITED, demo.THOUGHT_OVER, demo.CAPTIONED[1]):
        assert text in out


def test_adapters_are_loaded_by_name_and_chosen(capsys, model, tmp_path, small_artefact):
    module = "language_model.model.layers.0.mlp_moe_gen.up_proj"
    first, second = (
        write_adapter(tmp_path / name, of(module, *pair(128, 64, len(name)))).folder for name in ("x", "b2")
    )
    how = {"seed": 1, "height": 64, "width": 64, "num_timesteps": 3}
    with bagel_rt.load(small_artefact, backend="onnxruntime", adapters={"a": first, "b2": second}) as bagel:
        wanted = [bagel.generate("x", adapter=a, **how) for a in ({"a": 1, "b2": 1}, {"a": 0.5}, None)]
    given = ["generate", "--prompt", "x", *SMALL, "--lora", f"a={first}", "--lora", second]
    target = tmp_path / "x.png"
    for choice, picture in zip(([], ["--adapter", "a=0.5"], ["--adapter", "a=0"]), wanted, strict=True):
        code, _, err = run(capsys, *given, *choice, "--out", target)
        assert (code, np.array_equal(np.asarray(Image.open(target)), np.asarray(picture.image))) == (0, True), err
    assert len({picture.latent.tobytes() for picture in wanted}) == 3
    code, _, err = run(capsys, *given, "--adapter", "c", "--out", target)
    assert (code, "adapter is 'c'; loaded: a, b2" in err) == (2, True)
    code, _, err = run(capsys, *given, "--lora", f"a={second}", "--out", target)
    assert (code, "two adapters are called a" in err) == (2, True)
