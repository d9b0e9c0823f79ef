"""What OpenVINO computes in is what `info` says: a hint that this CPU ignores is an error when it was asked for."""

from __future__ import annotations

import pytest
from quantised_products import quantised

from bagel_engines import EngineFailure, Settings, open_engine
from bagel_engines.openvino import arithmetic
from bagel_engines.openvino.arithmetic import Arithmetic, arithmetic_here
from bagel_rt.artefact.contract import GEN_STEP
from bagel_rt.artefact.manifest import read_manifest


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


def loaded(folder, arithmetic: str | None = None):
    engine = open_engine("openvino", settings=Settings(arithmetic=arithmetic))
    engine.load(read_manifest(folder).graph_file(GEN_STEP))
    return engine


@pytest.mark.parametrize("arithmetic", ["int8", "bfloat16"])
def test_an_option_that_a_compiled_model_ignores_does_not_name_what_it_ran_in(
    small_artefact, hints_taken, monkeypatch, arithmetic
):
    monkeypatch.setattr(Arithmetic, "config", Arithmetic("float32", "float32").config)  # the plugin drops the hint
    info = loaded(small_artefact, arithmetic).info
    count = int(str(info).split("of ")[1].split()[0])
    assert info.remark == f"of {count} products {count} in float32"


def test_what_a_compiled_model_runs_is_read_from_it(small_artefact, quantised_artefacts):
    assert str(loaded(small_artefact).info).endswith("(cpu, float32)")
    remark = loaded(quantised_artefacts / "w8a8").info.remark
    assert remark.endswith("in int8") or not remark  # a CPU that cannot multiply 8-bit numbers widens them


@pytest.mark.parametrize("word", ["int8", "int4", "w8a8"])
def test_openvino_multiplies_quantised_weights_as_they_are(quantised_artefacts, word):
    """What a product reads has 8 or 4 bits in the compiled model too: it was unpacked neither once nor in each call."""
    file = read_manifest(quantised_artefacts / word).graph_file(GEN_STEP)
    nodes = compiled_by(open_engine("openvino"), file).get_runtime_model().get_ordered_ops()
    products = [node for node in nodes if told(node, "layerType") == "FullyConnected"]
    read = [told(product.input_value(1).get_node(), "outputPrecisions") for product in products]
    assert sum(kind in ("i8", "u8", "i4", "u4") for kind in read) == quantised(file), read


def told(node, key: str) -> str:
    value = node.get_rt_info()[key]
    return str(value.astype(str) if hasattr(value, "astype") else value)


def compiled_by(engine, graph):
    """What the engine compiled a graph to."""
    seen = []
    real = engine._core.compile_model

    class Core:
        def __getattr__(self, name):
            return getattr(engine_core, name)

        def compile_model(self, *how):
            seen.append(real(*how))
            return seen[-1]

    engine_core, engine._core = engine._core, Core()
    engine.load(graph)
    return seen[0]


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
