"""Checks of a graph for TensorRT that need no GPU: a lint for known traps, parsing, and building with TensorRT-RTX.

The best result is "built, not executed": without a driver a plan cannot be loaded. The traps and the versions they were
seen on are in docs/internals/tensorrt.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bagel_engines.protocol import EngineFailure
from bagel_engines.tensorrt import plan_builder
from bagel_engines.tensorrt.plan_builder import BuildSettings, Profile, flavour


@dataclass(frozen=True)
class BuildReport:
    graph: str
    version: str
    compute_capability: str
    plan_bytes: int  # 0: not built
    errors: tuple[str, ...]

    @property
    def built(self) -> bool:
        return self.plan_bytes > 0

    def __str__(self) -> str:
        what = f"built, not executed: plan of {self.plan_bytes} bytes" if self.built else f"not built: {self.errors}"
        return f"{self.graph} for {self.compute_capability} with TensorRT-RTX {self.version}: {what}"


def lint(path: Path) -> list[str]:
    """Forms in a graph that NVIDIA's parser accepts and computes wrongly, or that do not build on some GPUs.

    One message each; empty when there is none.
    """
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    found = [f"input {value.name} feeds nothing" for value in graph.input if value.name not in read]
    attention_inputs: dict[tuple[str, ...], str] = {}
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            found.append(f"{node.name}: {node.domain}.{node.op_type} needs a plugin")
        if node.op_type in ("If", "Loop", "Scan"):
            found.append(f"{node.name}: {node.op_type} is not allowed in a step graph")
        if node.op_type != "Attention":
            continue
        if any(attribute.name == "is_causal" and attribute.i for attribute in node.attribute):
            found.append(f"{node.name}: is_causal over a cache is aligned to the upper left; pass a mask")
        if len(node.input) > 4 and any(node.input[4:]):
            found.append(f"{node.name}: past_key, past_value and nonpad_kv_seqlen are refused or ignored")
        other = attention_inputs.setdefault(tuple(node.input[1:3]), node.name)
        if other != node.name:
            found.append(f"{node.name}: reads the same K and V as {other}, which crashes TensorRT-RTX 1.7.1")
    return found


def build(path: Path, profiles: Iterable[Profile], compute_capability: str = "SM120") -> BuildReport:
    """Parse a graph and build a plan for one GPU architecture with the given optimisation profiles."""
    found = flavour("tensorrt-rtx")
    try:
        plan = plan_builder.build(found, path, BuildSettings(tuple(profiles), compute_capability))
    except EngineFailure as error:
        return BuildReport(path.stem, found.version, compute_capability, 0, (str(error),))
    return BuildReport(path.stem, found.version, compute_capability, plan.nbytes, ())
