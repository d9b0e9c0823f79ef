"""The embedded API as a caller meets it, on a small random model."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from calls import FAST, same
from PIL import Image

import bagel_rt
from bagel_rt.options import defaults
from bagel_rt.results import read_metadata


def test_defaults_are_the_official_ones():
    g, e, i, a = defaults.GENERATE, defaults.EDIT, defaults.INTERLEAVE, defaults.ANSWER
    assert (g.cfg_text_scale, g.cfg_img_scale, g.cfg_interval, g.cfg_renorm_type) == (4.0, 1.0, (0.4, 1.0), "global")
    assert (e.cfg_text_scale, e.cfg_img_scale, e.cfg_interval, e.cfg_renorm_type) == (4, 2, (0, 1), "text_channel")
    assert (i.cfg_text_scale, i.cfg_img_scale, i.cfg_interval, i.cfg_renorm_type) == (3, 1.5, (0.4, 1), "global")
    for o in (g, e, i):
        assert (o.cfg_renorm_min, o.timestep_shift, o.num_timesteps, o.max_think_tokens) == (0, 3.0, 50, 1000)
        assert (o.do_sample, o.text_temperature, o.think, o.vae_sample) == (False, 0.3, False, True)
    assert (a.max_tokens, a.do_sample, a.text_temperature, a.think) == (1000, False, 0.3, False)


def test_a_seed_gives_one_picture_and_another_seed_another(small_bagel):
    first = small_bagel.generate("a tree", seed=7, **FAST)
    assert same(first, small_bagel.generate("a tree", seed=7, **FAST))
    assert not same(first, small_bagel.generate("a tree", seed=8, **FAST))
    assert not same(first, small_bagel.generate("a house", seed=7, **FAST))
    assert first.latent.shape == (16, 64)
    assert first.latent.dtype == np.float32
    assert first.image.size == (64, 64)
    assert first.text is None


def test_without_a_seed_one_is_drawn_and_reported(small_bagel):
    first, second = (small_bagel.generate("a tree", **FAST) for _ in range(2))
    assert first.seed != second.seed
    assert same(first, small_bagel.generate("a tree", seed=first.seed, **FAST))
    assert first.options["seed"] == first.seed


@pytest.mark.parametrize("seed", [0, -3, 2**40])
def test_every_integer_seed_is_honoured(small_bagel, seed):
    result = small_bagel.generate("a", seed=seed, **FAST)
    assert result.seed == seed
    assert same(result, small_bagel.generate("a", seed=seed, **FAST))


def test_given_noise_takes_the_place_of_the_seeds(small_bagel):
    from bagel_rt.sampling.torch_noise import TorchNoise

    noise = TorchNoise(7).normal(16, 64)
    assert same(small_bagel.generate("a", seed=1, noise=noise, **FAST), small_bagel.generate("a", seed=7, **FAST))
    for bad, message in [(noise[:5], "shape"), (noise * np.nan, "finite"), (noise.tolist(), "float array")]:
        with pytest.raises(bagel_rt.InputError, match=message):
            small_bagel.generate("a", noise=bad, **FAST)


def test_the_posterior_mean_needs_no_noise_for_the_input_image(small_bagel, photo):
    noise = np.ones((16, 64), np.float32)
    mean = [small_bagel.edit(photo, "x", seed=s, noise=noise, vae_sample=False, **FAST) for s in (1, 2)]
    assert same(*mean)
    drawn = [small_bagel.edit(photo, "x", seed=s, noise=noise, **FAST) for s in (1, 2)]
    assert not same(*drawn)


def test_the_size_follows_the_last_image_and_an_explicit_one_is_honoured(small_bagel, photo):
    edited = small_bagel.edit(photo, "x", seed=1, num_timesteps=2)
    assert edited.image.size == (96, 64)  # 100 x 70 by the VAE's resize rule
    assert (edited.options["height"], edited.options["width"]) == (64, 96)
    assert small_bagel.edit(photo, "x", num_timesteps=2, height=80, width=48).image.size == (48, 80)
    assert small_bagel.generate("x", num_timesteps=2).image.size == (128, 128)


@pytest.mark.parametrize(
    "size, nearest",
    [((100, 64), (96, 64)), ((64, 1000), (64, 256)), ((8, 64), (16, 64)), ((272, 16), (256, 16))],
)
def test_a_size_that_cannot_be_drawn_is_refused_with_the_nearest_that_can(small_bagel, size, nearest):
    with pytest.raises(bagel_rt.InputError, match=f"the nearest is height {nearest[0]}, width {nearest[1]}"):
        small_bagel.generate("a", height=size[0], width=size[1])


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"num_timesteps": 1}, "num_timesteps is 1; an integer of 2 or more"),
        ({"num_timesteps": 2.5}, "integer"),
        ({"cfg_text_scale": float("nan")}, "cfg_text_scale is nan; a finite number"),
        ({"cfg_img_scale": float("inf")}, "finite"),
        ({"cfg_text_scale": "4"}, "finite number"),
        ({"cfg_interval": (0.6, 0.4)}, "lower bound"),
        ({"cfg_interval": (-0.1, 0.4)}, "from 0 to 1"),
        ({"cfg_interval": 0.4}, "two numbers"),
        ({"cfg_renorm_type": "local"}, "allowed: global, channel, text_channel"),
        ({"cfg_renorm_min": 2.0}, "from 0 to 1"),
        ({"timestep_shift": 0.0}, "above 0"),
        ({"step_cache": "teacache"}, "allowed: taylorseer"),
        ({"text_temperature": 0, "do_sample": True}, "above 0"),
        ({"text_temperature": -1.0}, "0 or more"),
        ({"max_think_tokens": 0}, "1 or more"),
        ({"seed": 1.5}, "integer"),
        ({"seed": True}, "integer"),
        ({"think": "yes"}, "True or False"),
        ({"height": 64.0}, "integer"),
        ({"cfg_text_scal": 3}, "did you mean cfg_text_scale"),
        ({"zzz": 3}, "known: height"),
    ],
)
def test_a_bad_option_is_refused_by_name(small_bagel, bad, message):
    before = dict(small_bagel.graphs.calls)
    with pytest.raises(bagel_rt.InputError, match=message) as caught:
        small_bagel.generate("a", **bad)
    assert caught.value.exit_code == 2
    assert small_bagel.graphs.calls == before


@pytest.mark.parametrize(
    "bad", [{"max_tokens": 0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"text_temperature": -1.0}, {"tokens": 3}]
)
def test_a_bad_text_option_is_refused(small_bagel, bad):
    with pytest.raises(bagel_rt.InputError):
        small_bagel.ask("a", **bad)


def test_temperature_zero_is_legal_for_greedy_text(small_bagel):
    assert small_bagel.ask("a", text_temperature=0, max_tokens=3).token_ids


def test_an_empty_prompt_is_legal(small_bagel):
    assert small_bagel.generate("", seed=1, **FAST).image.size == (64, 64)
    assert isinstance(small_bagel.ask("", max_tokens=4).text, str)


def test_special_tokens_in_a_prompt_are_parsed(small_bagel):
    reader = small_bagel._turns.reader
    assert len(reader.text("<|vision_start|>").ids) == 3
    assert len(reader.text("abc").ids) == 5


def test_the_length_rule_is_the_official_one(small_bagel):
    assert small_bagel.ask("hello", max_tokens=1).text == ""
    assert len(small_bagel.ask("hello", max_tokens=1).token_ids) == 1
    five = small_bagel.ask("hello", max_tokens=6).token_ids
    assert len(five) <= 6
    assert small_bagel.ask("hello", max_tokens=9).token_ids[: len(five)] == five


def test_thinking_returns_the_plan_and_changes_the_picture(small_bagel):
    plain = small_bagel.generate("a", seed=1, **FAST)
    planned = small_bagel.generate("a", seed=1, think=True, max_think_tokens=6, **FAST)
    assert isinstance(planned.text, str)
    assert not same(plain, planned)


def test_sampled_text_is_seeded(small_bagel):
    ask = lambda seed: small_bagel.ask("a", do_sample=True, text_temperature=3.0, max_tokens=12, seed=seed)  # noqa: E731
    assert ask(1).token_ids == ask(1).token_ids
    assert ask(1).token_ids != ask(2).token_ids


def test_noise_of_another_size_is_refused_before_a_plan_is_written(small_bagel):
    noise, calls = np.zeros((9, 64), np.float32), small_bagel.graphs.calls.get("lm_head", 0)
    with pytest.raises(bagel_rt.InputError, match=r"noise has shape \(9, 64\); \(16, 64\) is expected"):
        small_bagel.generate("a", think=True, max_think_tokens=9, noise=noise, **FAST)
    assert small_bagel.graphs.calls.get("lm_head", 0) == calls


def test_text_from_several_images_differs_from_text_from_one(small_bagel, photo):
    one = small_bagel.ask("what?", images=photo, max_tokens=12)
    assert one.token_ids == small_bagel.ask("what?", images=[photo], max_tokens=12).token_ids
    calls = small_bagel.graphs.calls.get("vit", 0)
    small_bagel.ask("what?", images=[photo, photo.rotate(90, expand=True)], max_tokens=12)
    assert small_bagel.graphs.calls["vit"] == calls + 2


def test_interleave_refuses_what_it_cannot_read(small_bagel):
    for items, output, message in [
        ([], "image", "nothing was given"),
        ("a text", "image", "must be a list"),
        (["a"], "video", "allowed: image, text"),
        ([3], "text", "not int"),
    ]:
        with pytest.raises(bagel_rt.InputError, match=message):
            small_bagel.interleave(items, output=output)
    with pytest.raises(bagel_rt.InputError, match="must be a str"):
        small_bagel.generate(None)


def test_an_image_may_be_a_picture_a_path_bytes_or_an_array(small_bagel, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    data = (tmp_path / "photo.png").read_bytes()
    wanted = small_bagel.edit(photo, "x", seed=1, **FAST)
    for given in (tmp_path / "photo.png", str(tmp_path / "photo.png"), data, np.asarray(photo)):
        assert same(wanted, small_bagel.edit(given, "x", seed=1, **FAST))


def opened(image: Image.Image, **save) -> np.ndarray:
    from bagel_rt.inputs.pictures import open_image

    stream = io.BytesIO()
    image.save(stream, **{"format": "PNG", **save})
    return np.asarray(open_image(stream.getvalue())).astype(int)


def test_transparency_is_laid_on_white(photo):
    clear = photo.convert("RGBA")
    clear.putalpha(0)
    assert (opened(clear) == 255).all()
    half = photo.convert("RGBA")
    half.putalpha(128)
    assert np.abs(opened(half) - (np.asarray(photo) * 0.5 + 127.5)).max() <= 2
    palette = photo.quantize(8)
    assert (opened(palette, transparency=0) == 255).all(axis=2).any()


def test_palette_grey_and_sixteen_bit_images_become_rgb(photo):
    assert opened(photo.quantize(8)).shape == (70, 100, 3)
    grey = np.asarray(photo.convert("L")).astype(int)
    assert (opened(photo.convert("L")) == grey[..., None]).all()
    deep = Image.fromarray((grey * 257).astype(np.uint16))
    assert np.abs(opened(deep) - grey[..., None]).max() <= 1
    assert opened(photo.convert("1")).shape == (70, 100, 3)
    assert opened(photo.convert("CMYK"), format="TIFF").shape == (70, 100, 3)


def test_exif_orientation_is_applied(photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = opened(photo, exif=exif)
    assert (turned == np.asarray(photo.rotate(-90, expand=True))).all()


def test_broken_truncated_and_bomb_images_are_refused_by_name(small_bagel, photo, tmp_path, monkeypatch):
    photo.save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    (tmp_path / "text.png").write_text("no image")
    for name, message in [("cut.png", "not a readable image"), ("text.png", "not a readable"), ("gone.png", "no such")]:
        with pytest.raises(bagel_rt.InputError, match=rf"{name}.*{message}"):
            small_bagel.ask("a", images=[tmp_path / name])
    with pytest.raises(bagel_rt.InputError, match="has shape"):
        small_bagel.ask("a", images=[np.zeros((4, 4, 7), np.float32)])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(bagel_rt.InputError, match=r"whole\.png.*decompression bomb"):
        small_bagel.ask("a", images=[tmp_path / "whole.png"])


def test_a_context_beyond_the_models_positions_is_refused_and_the_next_call_works(small_bagel):
    with pytest.raises(bagel_rt.InputError, match="max_position_embeddings is 4096"):
        small_bagel.ask("word " * 2000)
    assert small_bagel.generate("a", seed=1, **FAST).image.size == (64, 64)
    assert small_bagel.free_tokens == bagel_rt.api.CACHE_TOKENS


def test_a_full_cache_says_what_was_asked_and_what_is_free_and_the_next_call_works(small_artefact, photo):
    with bagel_rt.load(small_artefact, backend="onnxruntime", cache_tokens=64) as bagel:
        with pytest.raises(bagel_rt.CacheFullError, match=r"room for 64 more tokens of 64, 102 were asked for"):
            bagel.ask("a" * 100)
        assert bagel.free_tokens == 64
        assert bagel.generate("a", seed=1, **FAST).image.size == (64, 64)


@pytest.mark.parametrize("bad", [{"cache_tokens": 0}, {"threads": -1}, {"threads": "two"}])
def test_a_bad_load_option_is_refused(small_artefact, bad):
    with pytest.raises(bagel_rt.InputError, match=next(iter(bad))):
        bagel_rt.load(small_artefact, **bad)


def test_calls_from_several_threads_queue_and_each_gets_its_own_result(small_bagel):
    seeds, results = range(6), {}
    wanted = {s: small_bagel.generate("t", seed=s, **FAST) for s in seeds}
    work = lambda s: results.__setitem__(s, small_bagel.generate("t", seed=s, **FAST))  # noqa: E731
    threads = [threading.Thread(target=work, args=(s,)) for s in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(wanted[s], results[s]) for s in seeds)


def test_a_closed_model_says_so_and_closing_twice_is_harmless(small_artefact):
    bagel = bagel_rt.load(small_artefact, backend="onnxruntime")
    bagel.close()
    bagel.close()
    with pytest.raises(bagel_rt.BagelError, match="closed"):
        bagel.ask("a")


def test_a_callers_exception_in_a_callback_gives_everything_back(small_bagel):
    def stop(event):
        if event.stage == "drawing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_bagel.generate("a", on_progress=stop, **FAST)
    assert small_bagel.free_tokens == bagel_rt.api.CACHE_TOKENS
    assert small_bagel.generate("a", seed=1, **FAST).image.size == (64, 64)


def test_progress_names_stages_and_counts_to_the_end(small_bagel):
    events = []
    small_bagel.generate("a", think=True, max_think_tokens=4, on_progress=events.append, **FAST)
    drawing = [(e.done, e.total) for e in events if e.stage == "drawing"]
    assert drawing == [(1, 2), (2, 2)]
    assert next(e.stage for e in events) == "thinking"
    assert [e.stage for e in events][-1] == "decoding"


def test_a_png_carries_what_is_needed_to_draw_it_again(small_bagel, tmp_path):
    result = small_bagel.generate("ein Baum 树", seed=3, cfg_interval=(0.2, 0.9), **FAST)
    result.save(tmp_path / "tree.png")
    record = read_metadata(tmp_path / "tree.png")
    assert (record["prompt"], record["seed"], record["engine"]) == ("ein Baum 树", 3, small_bagel.engine)
    assert record["model"] == small_bagel.model
    chosen = {k: v for k, v in record["options"].items() if k != "noise"}
    assert same(result, small_bagel.generate(record["prompt"], **chosen))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "tree.png")), np.asarray(result.image))


def test_metadata_can_be_left_out(small_bagel, tmp_path):
    small_bagel.generate("secret", seed=3, **FAST).save(tmp_path / "plain.png", metadata=False)
    assert b"secret" not in (tmp_path / "plain.png").read_bytes()
    with pytest.raises(bagel_rt.InputError, match=r"plain\.png.*no bagel-rt record"):
        read_metadata(tmp_path / "plain.png")


def test_saving_is_whole_or_not_at_all(small_bagel, tmp_path, monkeypatch):
    result = small_bagel.generate("a", seed=3, **FAST)
    (tmp_path / "old.png").write_bytes(b"old")

    def fail(self, path, **_):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        result.save(tmp_path / "old.png")
    assert [p.name for p in tmp_path.iterdir()] == ["old.png"]
    assert (tmp_path / "old.png").read_bytes() == b"old"
    for target, message in [
        (tmp_path / "no" / "a.png", "no such folder"),
        (tmp_path / "a.xyz", "unknown image format"),
    ]:
        with pytest.raises(bagel_rt.InputError, match=message):
            result.save(target)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "bagel_rt.json").unlink(), "is missing"),
        (lambda f: (f / "bagel_rt.json").write_text("{"), "not readable as JSON"),
        (lambda f: (f / "bagel_rt.json").write_text("[]"), "format_version"),
        (lambda f: (f / "bagel_rt.json").write_text('{"format_version": 99}'), "a newer bagel-rt is needed"),
        (lambda f: (f / "bagel_rt.json").write_text('{"format_version": 2, "contract_version": 1}'), "'task'"),
        (lambda f: (f / "weights.safetensors").write_bytes(b"short"), r"weights\.safetensors: 5 bytes"),
        (lambda f: (f / "vit.onnx").unlink(), r"vit\.onnx: file is missing"),
    ],
)
def test_a_damaged_artefact_is_refused_at_loading_by_file(small_artefact, tmp_path, damage, message):
    import shutil

    shutil.copytree(small_artefact, tmp_path / "copy")
    damage(tmp_path / "copy")
    with pytest.raises(bagel_rt.ArtefactError, match=message) as caught:
        bagel_rt.load(tmp_path / "copy")
    assert str(tmp_path / "copy") in str(caught.value)


def test_a_checkpoint_given_as_a_model_is_recognised(small_checkpoint):
    with pytest.raises(bagel_rt.ArtefactError, match="run bagel-rt export first"):
        bagel_rt.load(small_checkpoint)
