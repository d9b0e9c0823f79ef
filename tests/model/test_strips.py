"""Large pictures are decoded strip by strip: the whole decoder's pixels, in less memory."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

import bagel_rt
from bagel_engines import Settings, installed, open_engine
from bagel_engines.memory_needs import onnxruntime_needs, openvino_needs
from bagel_engines.openvino.arithmetic import changes_numbers
from bagel_rt.artefact.contract import VAE_BODY, VAE_DECODER, VAE_STRIPS
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.conversation.calls import rehearsal
from bagel_rt.estimate.memory import memory
from bagel_rt.estimate.workload import workload
from bagel_rt.model import vae_strips
from bagel_rt.model.graphs import Graphs
from bagel_rt.model.vae_strips import Sums, decode_in_strips, in_strips
from bagel_rt.options.image_options import ImageOptions

ENGINES = [(name, "float32") for name in installed()]
ENGINES += [("openvino", "bfloat16")] if "openvino" in installed() and changes_numbers("bfloat16") else []


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    """A random model whose pictures go up to 1024 x 1024."""
    from bagel_export.artefact.export import export
    from bagel_export.checkpoint.synthetic import Shape, write_checkpoint
    from bagel_rt.artefact.manifest import ResizeRule

    folder = tmp_path_factory.mktemp("large")
    write_checkpoint(
        folder / "checkpoint", replace(Shape(), max_latent_size=64, vae_transform=ResizeRule(1024, 64, 16))
    )
    for _ in export(folder / "checkpoint", folder / "model"):
        pass
    return folder / "model"


def decoded(graphs: Graphs, latent: np.ndarray, strip: int) -> np.ndarray:
    with graphs.one_at_a_time() as run:
        *_, (done, total, pixels) = decode_in_strips(run, latent, strip)
    assert done == total
    return pixels


@pytest.mark.parametrize(("engine", "arithmetic"), ENGINES)
@pytest.mark.parametrize(("high", "wide", "strip"), [(10, 12, 16), (9, 5, 22), (3, 4, 64)])
def test_strips_give_the_whole_decoders_pixels(artefact, engine, arithmetic, high, wide, strip):
    graphs = Graphs(read_manifest(artefact), open_engine(engine, settings=Settings(arithmetic=arithmetic)))
    latent = np.random.default_rng(0).standard_normal((1, 16, high, wide)).astype(np.float32)
    (whole,) = graphs(VAE_DECODER, latent=latent)
    apart = np.linalg.norm(decoded(graphs, latent, strip) - whole) / np.linalg.norm(whole)
    assert apart < (2e-6 if arithmetic == "float32" else 2e-2)  # bfloat16 itself is 1.5e-2 from float32 here


def test_only_one_part_is_loaded_at_a_time_and_none_is_kept(artefact):
    graphs, seen = Graphs(read_manifest(artefact), open_engine("onnxruntime")), []
    latent = np.zeros((1, 16, 4, 4), np.float32)
    with graphs.one_at_a_time() as run:
        for _ in decode_in_strips(run, latent, 16):
            seen.append(frozenset(graphs.opened))
    assert {part for parts in seen for part in parts} == {VAE_BODY, *VAE_STRIPS}
    assert all(len(parts) <= 1 for parts in seen)
    assert graphs.opened == set()


@pytest.mark.parametrize("engine", installed())
def test_a_large_picture_is_decoded_in_strips_and_a_small_one_whole(artefact, engine, monkeypatch):
    monkeypatch.setattr(vae_strips, "WHOLE_UP_TO", 64 * 64)
    monkeypatch.setattr(vae_strips, "WORTH", np.inf)
    how = {"num_timesteps": 2, "seed": 1, "width": 64}
    with bagel_rt.load(artefact, engine) as bagel:
        small, large = bagel.generate("a", height=64, **how), bagel.generate("a", height=96, **how)
        called = bagel.graphs.calls
        assert called[VAE_DECODER] == 1
        assert called[VAE_BODY] == 1
        monkeypatch.undo()
        assert not in_strips(read_manifest(artefact), bagel.graphs.engine.needs, 96, 64)
        whole = bagel.generate("a", height=96, **how)
    assert small.image.size == (64, 64)
    apart = np.abs(np.asarray(large.image, int) - np.asarray(whole.image, int))
    assert apart.max() <= 1


def test_an_artefact_of_small_pictures_has_no_parts(small_artefact):
    manifest = read_manifest(small_artefact)
    assert not manifest.has(VAE_BODY)
    assert not in_strips(manifest, open_engine("onnxruntime").needs, 1024, 1024)


def test_strips_are_for_engines_whose_whole_decoder_takes_much_more(artefact):
    manifest = read_manifest(artefact)
    assert in_strips(manifest, onnxruntime_needs("float32", mapped=False), 1024, 1024)
    assert in_strips(manifest, openvino_needs("float32"), 1024, 1024)
    assert not in_strips(manifest, openvino_needs("bfloat16"), 1024, 1024)
    assert not in_strips(manifest, None, 1024, 1024)


def test_a_large_picture_decoded_whole_gives_the_decoder_back(artefact, monkeypatch):
    monkeypatch.setattr(vae_strips, "WHOLE_UP_TO", 64 * 64)
    monkeypatch.setattr(vae_strips, "WORTH", 0)
    how = {"num_timesteps": 2, "seed": 1, "width": 64}
    with bagel_rt.load(artefact, "onnxruntime") as bagel:
        bagel.generate("a", height=64, **how)
        assert VAE_DECODER in bagel.graphs.opened
        bagel.generate("a", height=96, **how)
        assert VAE_DECODER not in bagel.graphs.opened
        assert bagel.graphs.calls[VAE_DECODER] == 2


def test_a_plan_counts_what_strips_take_and_what_the_whole_decoder_would(artefact):
    manifest, engine = read_manifest(artefact), open_engine("onnxruntime")
    sizes = {}
    for side in (512, 528):
        opts = ImageOptions(height=side, width=side, num_timesteps=2)
        work = workload(manifest, rehearsal(["a"]), opts, engine.takes_zero_rows, 4096)
        sizes[side] = memory(manifest, manifest.widths, work, engine.needs).parts["working"]
    assert sizes[528] < sizes[512]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("engine", "arithmetic"), ENGINES)
def test_a_picture_of_a_megapixel_takes_the_memory_that_is_planned(artefact, engine, arithmetic):
    from bench.watch import watched

    script = (
        "import sys; from bagel_rt.api import load\n"
        "with load(sys.argv[1], sys.argv[2], arithmetic=sys.argv[3]) as bagel:\n"
        "    bagel.generate('a', height=1024, width=1024, num_timesteps=2, cfg_text_scale=1, seed=1)"
    )
    taken = watched([sys.executable, "-c", script, str(artefact), engine, arithmetic])["peak_anonymous_and_shared_gib"]
    manifest, opened = read_manifest(artefact), open_engine(engine, settings=Settings(arithmetic=arithmetic))
    opts = ImageOptions(height=1024, width=1024, num_timesteps=2, cfg_text_scale=1)
    work = workload(manifest, rehearsal(["a"]), opts, opened.takes_zero_rows, 8192)
    planned = memory(manifest, manifest.widths, work, opened.needs).total / 2**30
    assert 0.8 < planned / taken < 1.3


def test_a_norm_of_parts_is_the_norm_of_the_whole():
    picture = 3 + np.random.default_rng(0).standard_normal((1, 64, 30, 7)).astype(np.float32)
    sums = Sums(64)
    for start in range(0, 30, 8):
        sums.add(picture[:, :, start : start + 8])
    groups = picture.reshape(32, -1).astype(np.float64)
    found = sums.norm()
    assert np.allclose(found["mean"].reshape(32, 2), groups.mean(axis=1, keepdims=True), rtol=1e-6)
    assert np.allclose(found["rate"].reshape(32, 2), 1 / np.sqrt(groups.var(axis=1, keepdims=True) + 1e-6), rtol=1e-5)
