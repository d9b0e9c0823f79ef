"""What is let in and what is refused, with memory that is made up: each number of the refusal, each way out of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from bagel_engines import EngineInfo
from bagel_rt.artefact.folders import BUNDLED
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.errors import InputError
from bagel_rt.estimate import admission
from bagel_rt.estimate.admission import GIB, Admission, Limit, limit_of
from bagel_rt.generation.needs import Need
from bagel_rt.options import defaults
from bagel_rt.options.text_options import TextOptions

STATED = read_manifest(BUNDLED)
MANIFEST = replace(STATED, raw={**STATED.raw, "weight_forms": {}})
PICTURE = replace(defaults.GENERATE, height=1024, width=512, num_timesteps=50)


@dataclass(frozen=True)
class Work:
    """A workload that remembers what it was counted from."""

    tokens: int
    options: Any
    given: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Memory:
    total: int
    context: int
    parts: dict[str, int]


class Case:
    """An Admission over memory that a function of options and low_memory says."""

    def __init__(self, monkeypatch, total, manifest=MANIFEST, **how: Any):
        self.counted: list[Work] = []
        self.known = {"needs": object(), "arithmetic": "float32", "name": "openvino", **how}
        info = EngineInfo(self.known["name"], "1", "cpu", self.known["arithmetic"])
        engine = SimpleNamespace(needs=self.known["needs"], info=info, takes_zero_rows="zero rows")

        def workload(manifest, request, options, zero_rows, room, vocabulary):
            work = Work(100, options, (manifest, request, zero_rows, room, vocabulary))
            self.counted.append(work)
            return work

        def memory(manifest, widths, work, needs, low_memory, held=0):
            assert (needs, widths) == (self.known["needs"], manifest.widths)
            size = int(total(work.options, low_memory) * GIB) + held
            return Memory(size, GIB // 4, {"weights": size - GIB // 2, "working": GIB // 2})

        monkeypatch.setattr(admission, "workload", how.get("workload", workload))
        monkeypatch.setattr(admission, "memory", memory)
        limit = Limit(2 * GIB, "are free")
        more = {key: how[key] for key in ("low_memory", "counts", "held") if key in how}
        self.admission = Admission(manifest, engine, limit, 4096, vocabulary="words", **more)  # type: ignore[arg-type]

    def check(self, options: Any = PICTURE) -> Need | None:
        return self.admission.check("a request", options)  # type: ignore[arg-type]

    def refusal(self, options: Any = PICTURE) -> str:
        with pytest.raises(InputError) as refused:
            self.check(options)
        return str(refused.value)


def test_what_is_exactly_as_much_as_is_free_is_let_in_and_its_need_is_told(monkeypatch):
    case = Case(monkeypatch, lambda options, low: 2)
    assert case.check() == Need(100, GIB // 4, 2 * GIB - GIB // 4)
    assert case.counted[0].given == (MANIFEST, "a request", "zero rows", 4096, "words")
    assert Case(monkeypatch, lambda options, low: 2.01).refusal()


def test_a_refusal_says_how_much_of_what_and_every_way_out(monkeypatch):
    def total(options, low):
        return (5 if options.height == 1024 else 3 if options.height >= 768 else 1.5) * (0.5 if low else 1)

    assert Case(monkeypatch, total).refusal() == (
        "this takes about 5.00 GiB of memory (weights 4.50, working 0.50), and 2.00 GiB are free. Instead: height and"
        " width 768 with low_memory (1.50 GiB); an export with --precision balanced or small; or allow more with"
        " max_memory"
    )


def test_what_the_model_holds_beside_its_artefact_counts_in_every_way(monkeypatch):
    total = lambda options, low: 1 if low else 1.5  # noqa: E731
    assert Case(monkeypatch, total).check() is not None
    said = Case(monkeypatch, total, held=GIB).refusal()
    assert "this takes about 2.50 GiB" in said
    assert "Instead: low_memory (2.00 GiB); " in said


def test_ways_out_are_counted_of_the_same_request_with_square_pictures_that_just_fit(monkeypatch):
    case = Case(monkeypatch, lambda options, low: 2 if options.height == options.width == 768 else 3)
    assert "height and width 768 with low_memory (2.00 GiB)" in case.refusal()
    assert {work.given[1] for work in case.counted} == {"a request"}


def test_an_artefact_that_says_nothing_of_its_weights_is_refused_in_the_same_words(monkeypatch):
    old = replace(MANIFEST, raw={key: value for key, value in MANIFEST.raw.items() if key != "weight_forms"})
    assert "balanced or small" in Case(monkeypatch, lambda options, low: 9, old).refusal(TextOptions())


def test_less_memory_alone_is_offered_first_where_it_is_enough_and_not_used_yet(monkeypatch):
    total = lambda options, low: 2 if low else 3  # noqa: E731
    assert "Instead: low_memory (2.00 GiB); " in Case(monkeypatch, total).refusal()
    assert "low_memory (" not in Case(monkeypatch, lambda options, low: 3, low_memory=True).refusal()
    assert Case(monkeypatch, total, low_memory=True).check() is not None


@pytest.mark.parametrize(
    "options, sides",
    [
        (replace(PICTURE, height=256, width=256), []),
        (replace(PICTURE, height=272, width=64), [256]),
        (replace(PICTURE, height=64, width=528), [512, 256]),
        (replace(PICTURE, height=1024, width=1024), [768, 512, 256]),
        (replace(PICTURE, height=None, width=None), []),  # from the largest side of the model's pictures on
        (TextOptions(), []),
        (None, []),
    ],
)
def test_smaller_pictures_are_tried_from_the_largest_on(monkeypatch, options, sides):
    tried = []

    def total(now, low):
        if low:
            tried.append(getattr(now, "height", None))
        return 9

    case = Case(monkeypatch, total)
    assert "height and width" not in case.refusal(options)
    most = MANIFEST.vae_transform.max_size
    wanted = sides if options is None or isinstance(options, TextOptions) or options.height or options.width else (
        [side for side in (1024, 768, 512, 256) if side < most]
    )  # fmt: skip
    assert tried[1:] == wanted  # the first is the request itself, with low_memory


@pytest.mark.parametrize(
    "forms, how, told, untold",
    [
        ({}, {}, "an export with --precision balanced or small", "arithmetic"),
        ({"a": "int8"}, {"name": "onnxruntime"}, 'arithmetic "int8", which keeps', "balanced"),
        ({"a": "int4"}, {"name": "onnxruntime"}, 'arithmetic "int8", which keeps', "an export"),
        (
            {"a": "int8"},
            {"name": "onnxruntime", "arithmetic": "int8"},
            "an export with --precision small",
            "arithmetic",
        ),
        ({"a": "int8"}, {}, "an export with --precision small", "arithmetic"),
        ({"a": "w8a8"}, {"name": "onnxruntime"}, "an export with --precision small", "arithmetic"),
        ({"a": "int4"}, {}, "take a machine with more memory", "an export"),
    ],
)
def test_other_weights_or_arithmetic_are_offered_where_they_would_help(monkeypatch, forms, how, told, untold):
    manifest = replace(MANIFEST, raw={**MANIFEST.raw, "weight_forms": forms})
    said = Case(monkeypatch, lambda options, low: 9, manifest, **how).refusal(TextOptions())
    assert told in said
    assert untold not in said


def test_nothing_is_refused_where_memory_is_not_known_and_tokens_are_counted_if_asked(monkeypatch):
    old = replace(MANIFEST, raw={key: value for key, value in MANIFEST.raw.items() if key != "widths"})
    for manifest, how in ((MANIFEST, {"needs": None}), (old, {})):
        case = Case(monkeypatch, lambda options, low: 9, manifest, **how)
        assert case.check() is None
        assert case.counted == []
        assert Case(monkeypatch, lambda options, low: 9, manifest, **how, counts=True).check() == Need(100)


def test_a_faulty_request_is_left_to_say_itself_what_is_wrong(monkeypatch):
    def faulty(*_):
        raise InputError("it is odd")

    assert Case(monkeypatch, lambda options, low: 9, workload=faulty).check() is None


@pytest.mark.parametrize(
    "options, counted, more",
    [
        (None, None, 0),
        (TextOptions(max_tokens=500), TextOptions(max_tokens=2), 498),
        (TextOptions(max_tokens=2), TextOptions(max_tokens=2), 0),
        (TextOptions(max_tokens=1), TextOptions(max_tokens=1), 0),
        (PICTURE, replace(PICTURE, num_timesteps=2, max_think_tokens=2), 0),
        (
            replace(PICTURE, think=True, max_think_tokens=90, cfg_zero_steps=4),
            replace(PICTURE, think=True, num_timesteps=2, max_think_tokens=2, cfg_zero_steps=0),
            88,
        ),
        (
            replace(PICTURE, think=True, max_think_tokens=1),
            replace(PICTURE, think=True, num_timesteps=2, max_think_tokens=1),
            0,
        ),
        (replace(PICTURE, step_cache="taylorseer"), replace(PICTURE, step_cache="taylorseer", max_think_tokens=2), 0),
    ],
)
def test_what_a_request_needs_is_counted_over_few_steps_and_tokens_and_the_others_are_added(
    monkeypatch, options, counted, more
):
    case = Case(monkeypatch, lambda options, low: 1)
    found = case.check(options)
    assert found is not None
    assert case.counted[0].options == counted
    assert found.tokens == 100 + more


def test_a_limit_is_what_is_free_or_allowed_and_says_so(monkeypatch):
    monkeypatch.setattr(admission, "free_memory", lambda: 3 * GIB)
    assert (limit_of(None), str(limit_of(None))) == (Limit(3 * GIB, "are free"), "3.00 GiB are free")
    assert limit_of(1.5) == Limit(3 * GIB // 2, "are allowed")
