"""What a machine without a GPU can say about a graph and TensorRT: lint, parse and build with TensorRT-RTX.

The result is always "built, not executed": a plan cannot be loaded without a driver.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # smallest, usual and largest shape
Profile = Mapping[str, Range]


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
    """What NVIDIA's parser takes without a word and computes wrongly, or refuses on some GPUs; empty when clean."""
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
    trt: Any = importlib.import_module("tensorrt_rtx")  # its bindings have no types

    errors: list[str] = []

    class Log(trt.ILogger):
        def log(self, severity, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                errors.append(msg)

    def report(plan_bytes: int) -> BuildReport:
        return BuildReport(path.stem, trt.__version__, compute_capability, plan_bytes, tuple(errors))

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        errors.extend(parser.get_error(i).desc() for i in range(parser.num_errors))
        return report(0)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, compute_capability), 0)
    for profile in profiles:
        optimisation = builder.create_optimization_profile()
        for name, (smallest, usual, largest) in profile.items():
            optimisation.set_shape(name, smallest, usual, largest)
        if config.add_optimization_profile(optimisation) < 0:
            errors.append(f"profile refused: {dict(profile)}")
            return report(0)
    plan = builder.build_serialized_network(network, config)
    return report(plan.nbytes if plan is not None else 0)
