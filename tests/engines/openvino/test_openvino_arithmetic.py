"""What OpenVINO computes in is what `info` says: a hint that this CPU ignores is an error when it was asked for."""

from __future__ import annotations

import pytest

from bagel_engines import EngineFailure, Settings, open_engine
from bagel_engines.openvino import arithmetic
from bagel_engines.openvino.arithmetic import Arithmetic, arithmetic_here


@pytest.fixture
def cpu(monkeypatch):
    """A CPU that has instructions for some formats and takes some hints; the rest it ignores."""

    def plant(has: set[str], takes: set[str]) -> None:
        monkeypatch.setattr(arithmetic, "native", lambda name: name in has)
        monkeypatch.setattr(arithmetic, "changes_numbers", lambda name: name in takes)
        monkeypatch.setattr(arithmetic, "rounds_rows", lambda beside: f"int8 beside {beside}" in takes)

    return plant


def test_a_cpu_with_bfloat16_computes_in_it(cpu):
    cpu({"bfloat16"}, {"bfloat16", "int8 beside bfloat16"})
    assert arithmetic_here("bfloat16", by_name=True) == Arithmetic("bfloat16", "bfloat16")
    assert arithmetic_here("int8", by_name=True).config["INFERENCE_PRECISION_HINT"] == "bf16"


def test_without_bfloat16_instructions_it_is_never_chosen_and_asking_says_what_it_costs(cpu):
    cpu(set(), {"bfloat16", "int8 beside float32"})
    assert arithmetic_here("bfloat16", by_name=False) == Arithmetic("float32", "float32")
    assert "emulated" in arithmetic_here("bfloat16", by_name=True).remark
    assert arithmetic_here("int8", by_name=True).config["INFERENCE_PRECISION_HINT"] == "f32"


@pytest.mark.parametrize("wanted", ["bfloat16", "float16", "int8"])
def test_an_arithmetic_that_would_change_nothing_is_refused_by_name_with_what_the_cpu_can_do(cpu, wanted):
    cpu(set(), set())
    with pytest.raises(EngineFailure, match=rf"'{wanted}' on this CPU and computes as without it.*in float32\)"):
        open_engine("openvino", settings=Settings(arithmetic=wanted))


def test_rounding_that_bfloat16_products_ignore_is_refused(cpu):
    cpu({"bfloat16"}, {"bfloat16", "int8 beside float32"})
    with pytest.raises(EngineFailure, match=r"'int8'.*float32, bfloat16\), or use --backend onnxruntime"):
        arithmetic_here("int8", by_name=True)


def test_a_stated_arithmetic_that_does_not_run_is_not_what_info_names(cpu):
    cpu(set(), set())
    assert open_engine("openvino", settings=Settings(stated="bfloat16")).info.arithmetic == "float32"


def test_on_this_cpu_what_is_said_to_have_no_effect_has_none():
    """The plugin's own numbers decide: equal results are no other arithmetic."""
    for name in ("bfloat16", "float16"):
        if arithmetic.native(name):
            assert arithmetic.changes_numbers(name)
        elif arithmetic.changes_numbers(name):
            assert arithmetic_here(name, by_name=True).remark
        else:
            with pytest.raises(EngineFailure):
                arithmetic_here(name, by_name=True)
