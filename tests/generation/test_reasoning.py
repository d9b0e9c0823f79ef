"""The loop of words and pictures over the recorded checkpoint, turn by turn against calls made alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from spelled import spell

import bagel_rt
from bagel_rt.artefact.contract import VAE_ENCODER, VIT
from bagel_rt.events import Done, ImageReady, TextPiece
from bagel_rt.results import ImageResult, TextResult
from bagel_rt.styles.files import style_named, style_of

FEW = {"num_timesteps": 3}
ALWAYS = style_of(
    {
        "name": "always",
        "turns": {"next": "always", "ends": ["!"]},
        "contexts": {"kept": False, "text_view": "vit", "negatives": "rebuilt"},
        "text": {"max_tokens": 5, "do_sample": True, "text_temperature": 1.5},
    },
    "here",
)


@pytest.fixture(scope="module")
def golden(golden_artefact):
    with bagel_rt.load(golden_artefact, backend="onnxruntime") as bagel:
        bagel._admission = None  # its rehearsal would use up what a test has the model say
        yield bagel


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(8).integers(0, 256, (64, 48, 3)).astype(np.uint8))


def test_each_turn_is_what_interleave_gives_for_the_items_before_it(golden, picture):
    result = golden.reason("what?", picture, style=ALWAYS, max_pictures=3, seed=40, **FEW)
    assert [type(part) for part in result] == [TextResult, ImageResult] * 3 + [TextResult]
    assert result.stopped == "max_pictures"
    items: list = [picture, "what?"]
    for n, part in enumerate(result):
        assert part.seed == 40 + n
        if isinstance(part, TextResult):
            words = {"max_tokens": 5, "do_sample": True, "text_temperature": 1.5}
            alone = golden.interleave(items, "text", seed=40 + n, **words)
            assert alone.token_ids == part.token_ids
            items.append(part.text)
        else:
            drawn = {"cfg_text_scale": 4.0, "cfg_img_scale": 2.0, "cfg_interval": (0.0, 1.0)}
            how = {"cfg_renorm_type": "text_channel", "vae_seed": 40, **FEW}
            alone = golden.interleave(items, seed=40 + n, **drawn, **how)
            np.testing.assert_array_equal(alone.latent, part.latent)
            items.append(part.image)


def test_a_picture_is_encoded_once_for_texts_and_once_for_pictures_whatever_follows(golden, picture, monkeypatch):
    calls: Counter[str] = Counter()
    called = type(golden.graphs).__call__

    def counted(self, graph, *args, **kwargs):
        calls[graph] += 1
        return called(self, graph, *args, **kwargs)

    monkeypatch.setattr(type(golden.graphs), "__call__", counted)
    seen = []
    for event in golden.stream_reason("what?", picture, style=ALWAYS, max_pictures=3, seed=40, **FEW):
        if isinstance(event, ImageReady):
            seen.append((calls[VAE_ENCODER], calls[VIT]))
    # the input for texts and for pictures; each picture for the texts that follow and the pictures that follow
    assert seen == [(1, 2), (2, 4), (3, 6)]
    assert (calls[VAE_ENCODER], calls[VIT]) == (4, 7)  # the last one is only talked about


def test_a_loop_gives_its_memory_back(golden, picture):
    free = golden.free_tokens
    golden.reason("what?", picture, style=ALWAYS, max_pictures=1, seed=1, **FEW)
    events = golden.stream_reason("what?", picture, style=ALWAYS, max_pictures=1, seed=1, **FEW)
    while not isinstance(next(events), ImageReady):
        pass
    events.close()
    assert golden.free_tokens == free


def test_a_stop_string_across_tokens_is_neither_shown_nor_read(golden, monkeypatch):
    style = replace(style_named("generic"), system="")
    texts = ["see <image_start>", "<answer>two</answer>"]
    spell(monkeypatch).say(golden._turns.codec, texts, stop_at="<image_start>")
    pieces, result = [], None
    for event in golden.stream_reason("what?", style=style, seed=3, **FEW):
        if isinstance(event, TextPiece):
            pieces.append(event.text)
        if isinstance(event, Done):
            result = event.result
    assert isinstance(result, bagel_rt.ReasonResult)
    assert [text.text for text in result.texts] == ["see ", "<answer>two</answer>"]
    assert "".join(pieces) == "see <answer>two</answer>"
    assert (result.answer, result.stopped) == ("two", "answered")
    assert result.pictures[0].prompt == "what?\nsee "


@pytest.mark.parametrize(
    "said, style, stopped",
    [
        (["no tag"], "thinkmorph", "no picture was asked for"),
        (["<answer>1</answer>"], "thinkmorph", "answered"),
        (["a <image_start>", "b <image_start>"], "thinkmorph", "max_pictures"),
        ([("a", "<|im_start|>"), ("b", "<|endoftext|>")], "mathcanvas", "answered"),
        ([("a", "<|vision_start|>"), ("b", "<|vision_start|>")], "mathcanvas", "max_pictures"),
        ([("a", "<|vision_end|>")] * 10, "mathcanvas", "most_turns"),
        (["a", "Final Answer: 3"], "zebra-cot", "answered"),
    ],
)
def test_a_loop_says_why_it_stopped(golden, monkeypatch, said, style, stopped):
    spell(monkeypatch).say(golden._turns.codec, said)
    how = replace(style_named(style), sizes=style_named("generic").sizes)
    result = golden.reason("what?", style=how, max_pictures=1, seed=1, **FEW)
    assert result.stopped == stopped
    assert len(result.texts) == len(said)


def test_a_picture_that_fails_is_left_out_only_where_the_style_says_so(golden, monkeypatch):
    style = replace(style_named("mathcanvas"), sizes=style_named("generic").sizes)
    tall = {"height": 16, "width": 16, "cfg_zero_steps": 0, **FEW}

    def fails(*_args, **_kwargs):
        raise bagel_rt.NotFiniteError("the picture is not finite")
        yield

    monkeypatch.setattr(golden._turns.painter, "paint", fails)
    spelled = spell(monkeypatch)
    spelled.say(golden._turns.codec, [("a", "<|vision_start|>"), ("b", "<|endoftext|>")])
    result = golden.reason("what?", style=style, seed=1, **tall)
    assert [text.text for text in result.texts] == ["a", "b"]
    assert result.failures == ("the picture is not finite",)
    spelled.say(golden._turns.codec, [("a", "<|vision_start|>")])
    stops = replace(style, turns=replace(style.turns, failed_pictures="stop"))
    with pytest.raises(bagel_rt.NotFiniteError):
        golden.reason("what?", style=stops, seed=1, **tall)


def test_a_style_that_names_an_unknown_token_or_an_option_that_is_none_is_refused(golden):
    style = style_named("mathcanvas")
    unknown = replace(style, turns=replace(style.turns, picture_token="<|draw|>"))
    with pytest.raises(bagel_rt.InputError, match=r"picture_token is '<\|draw\|>', which is no token of this model"):
        golden.reason("what?", style=unknown)
    with pytest.raises(bagel_rt.InputError, match="did you mean num_timesteps"):
        golden.reason("what?", num_timestep=3)
    with pytest.raises(bagel_rt.InputError, match="max_pictures is -1; an integer of 0 or more"):
        golden.reason("what?", max_pictures=-1)


def test_a_session_keeps_all_of_a_loop_goes_back_and_is_unchanged_by_one_that_was_cancelled(golden, picture):
    style = style_named("thinkmorph")
    always = replace(style, turns=replace(style.turns, next="always", most_turns=3))
    how = {"style": always, "max_tokens": 4, "do_sample": True, **FEW}
    free = golden.free_tokens
    with golden.session(seed=5) as session:
        before = session.mark()
        events = session.stream_reason("what?", picture, **how)
        while not isinstance(next(events), ImageReady):
            pass
        events.close()
        assert session.mark() is before
        first = session.reason("what?", picture, **how)
        session.add_text("and?")
        after = session.generate_image(**FEW)
        kept = session.mark().reading
        assert [kept.texts[1], kept.texts[2]] == [text.text for text in first.texts]
        assert len(first.pictures) == 1
        kinds = [type(segment).__name__ for segment in kept.histories.cond]
        words = ["Text", "Latents", "Patches", "Text", "Text"]  # system prompt, input, question, thought
        assert kinds == [*words, "Latents", "Patches", "Text", "Text"]  # picture, thought, "and?"
        session.rollback(before)
        again = session.reason("what?", picture, **how)
        np.testing.assert_array_equal(first.pictures[0].latent, again.pictures[0].latent)
        session.add_text("and?")
        np.testing.assert_array_equal(session.generate_image(**FEW).latent, after.latent)
    assert golden.free_tokens == free


def test_progress_shows_finished_pictures_too(golden, picture):
    seen: list = []
    golden.reason("what?", picture, style=ALWAYS, max_pictures=1, seed=1, on_progress=seen.append, **FEW)
    assert sum(isinstance(event, ImageReady) for event in seen) == 1
    assert not any(isinstance(event, Done) for event in seen)
    assert {event.stage for event in seen} == {"reasoning", "drawing", "decoding", "image"}


def test_special_tokens_that_a_fine_tune_added_are_read_as_they_stand(golden_artefact, tmp_path):
    import shutil

    from tokenizers import AddedToken, Tokenizer

    from bagel_rt.artefact.manifest import read_manifest
    from bagel_rt.inputs.tokenizer import TextCodec

    folder = shutil.copytree(golden_artefact, tmp_path / "tuned")
    manifest = read_manifest(folder)
    path = folder / manifest.tokenizer_file
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens([AddedToken("<answer>", special=True)])
    tokenizer.add_tokens([AddedToken("</answer>", special=False)])
    tokenizer.save(str(path))
    codec = TextCodec(manifest)
    text = "so <answer>two </answer> ."
    ids = [tokenizer.token_to_id("<|im_start|>"), *tokenizer.encode(text, add_special_tokens=False).ids]
    assert {codec.token_id("<answer>"), codec.token_id("</answer>")} <= set(ids)
    assert codec.text(ids) == text  # the slow tokenizer's decode puts no spaces between special tokens either
