"""OpenVINO on the CPU: the artefact's arithmetic, or another when asked for by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines.host_cache import HostCache, NarrowCache
from bagel_engines.memory_needs import openvino_needs
from bagel_engines.number_formats import narrowed
from bagel_engines.onnx_files import has_links, with_weights_at_addresses
from bagel_engines.openvino.arithmetic import HINTS, ROUNDED, arithmetic_here
from bagel_engines.openvino.executed import differing, products
from bagel_engines.openvino.fuse_upsampling import upsample_at_once
from bagel_engines.openvino.share_kv_heads import share_keys
from bagel_engines.openvino.split_new_kv import STACKED, Parts, take_apart
from bagel_engines.protocol import Arrays, EngineFailure, EngineInfo, LowRank, Runner, Tensor, Tensors

FIRST = (2026, 3)  # with RMSNormalization and Attention
POOL = "pool"  # the step graphs' input that lies in the cache
ADDRESS = "*/_ORT_MEM_ADDR_/*"  # in place of a weight file's name: the offset is an address (as ONNX Runtime gives it)


def check_version(version: str) -> None:
    """Raises EngineFailure for one whose reader of ONNX files lacks operators that every artefact has."""
    if tuple(map(int, version.split(".")[:2])) < FIRST:
        wanted = ".".join(map(str, FIRST))
        raise EngineFailure(
            f"openvino {version} does not know the operators of these graphs; needed is {wanted} or newer: pip install"
            " --upgrade openvino"
        )


class OpenVinoRunner:
    def __init__(
        self,
        openvino,
        names: tuple[tuple[str, ...], tuple[str, ...]],
        compiled,
        name: str,
        low_memory: bool,
        parts: Parts | None = None,
        weights: Sequence[np.ndarray] = (),
    ):
        """names: of the model's inputs and results before it was compiled, which may give a port that was fused with a
        cast the cast's name. weights: mapped files that the compiled graph reads where they are."""
        self._weights = weights
        self._openvino, self._request, self._name = openvino, compiled.create_infer_request(), name
        self._give_back = compiled.release_memory if low_memory else None
        (self.inputs, self._results), self._parts = names, parts
        apart = parts.names if parts else []
        self.outputs = (*(name for name in self._results if name not in apart), *([STACKED] if parts else []))
        ports = (*zip(self.inputs, compiled.inputs, strict=True), *zip(self._results, compiled.outputs, strict=True))
        self._bfloat16 = {name for name, port in ports if port.element_type == openvino.Type.bf16}
        self._float16 = {name for name, port in ports if port.element_type == openvino.Type.f16}

    def run(self, inputs: Tensors, outputs: Sequence[str], held: Container[str] = ()) -> dict[str, np.ndarray]:
        try:
            # share_inputs: inputs are read in place; without it every call would copy the page pool
            given = {self.inputs.index(name): self._tensor(name, array) for name, array in inputs.items()}
            self._request.infer(given, share_inputs=True)
            found = {name: self._array(name) for name in outputs}
            if self._give_back is not None:
                self._give_back()
            return found
        except Exception as error:
            raise EngineFailure(f"openvino failed in graph '{self._name}': {error}") from error

    def _tensor(self, name: str, array: Tensor):
        if name in self._float16:
            return narrowed(np.asarray(array), "float16")
        if name not in self._bfloat16:
            return array
        array = np.asarray(array)
        if array.dtype == np.float32:  # not this engine's cache, which is kept in 16 bits
            array = narrowed(array, "bfloat16")
        return self._openvino.Tensor(array, list(array.shape), self._openvino.Type.bf16)

    def _array(self, name: str) -> np.ndarray:
        if self._parts is not None and name == STACKED:
            return self._parts.stacked({part: self._seen(part) for part in self._parts.names})
        return self._seen(name).copy()

    def _seen(self, name: str) -> np.ndarray:
        """A result in OpenVINO's own memory; the next call writes over it."""
        array = self._request.get_output_tensor(self._results.index(name)).data
        return array.view(np.uint16) if name in self._bfloat16 else array


class OpenVinoEngine:
    takes_zero_rows = True

    def __init__(
        self,
        device: str = "cpu",
        threads: int | None = None,
        arithmetic: str = "float32",
        low_memory: bool = False,
        by_name: bool = False,
    ):
        """arithmetic: one of arithmetic.ALLOWED. by_name: the caller asked for it, so it is refused where it would
        change nothing; otherwise the artefact states it, and what is computed in instead stands in `info`."""
        import openvino

        version = openvino.__version__.split("-")[0]
        check_version(version)
        if device != "cpu":
            raise EngineFailure(f"openvino runs on 'cpu' here; device {device!r} is not supported")
        here = arithmetic_here(arithmetic, by_name)
        self._openvino, self._core = openvino, openvino.Core()
        self._low_memory, self._arithmetic = low_memory, here.beside
        self._config: dict[str, object] = {**here.config, "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            self._config["INFERENCE_NUM_THREADS"] = threads
        self.needs = openvino_needs(self._arithmetic)
        self._ran: Counter[str] = Counter()
        self._claimed = EngineInfo("openvino", version, device, here.name, here.remark)

    @property
    def info(self) -> EngineInfo:
        """What it was opened for, and where graphs that were loaded run something else."""
        # where kernels round rows, they name the format that rows come in
        claimed = self._claimed.arithmetic
        differ = differing(self._ran, claimed, *([self._arithmetic] if claimed == ROUNDED else []))
        remarks = (self._claimed.remark, differ)
        return replace(self._claimed, remark=", ".join(filter(None, remarks)))

    def load(self, graph: Path, prime: Arrays | None = None, added: LowRank | None = None) -> Runner:
        try:
            read, weights = str(graph), []
            if added is not None or has_links(graph):
                read, weights = with_weights_at_addresses(graph, ADDRESS, added)
            model = self._core.read_model(read)
            self._narrow_pool(model)
            share_keys(model)
            upsample_at_once(model)
            parts = take_apart(model, self._arithmetic)
            names = _names(model.inputs), _names(model.outputs)
            compiled = self._core.compile_model(model, "CPU", self._config)
        except EngineFailure:
            raise
        except Exception as error:
            raise EngineFailure(f"openvino cannot load {graph}: {error}") from error
        self._ran += products(compiled)
        runner = OpenVinoRunner(self._openvino, names, compiled, graph.stem, self._low_memory, parts, weights)
        if prime is not None:  # 2026.4.1: a ViT whose first call has a single patch computes every later call wrongly
            runner.run(prime, ())
        return runner

    def _narrow_pool(self, model) -> None:
        """Make a float32 page pool a 16-bit input where the model computes in 16 bits; the results are the same.

        OpenVINO (2026.4.1) would round the whole pool to 16 bits in every call, before it gathers the context from it:
        0.3 s and 1.9 GiB at the 7B's size. So the cache is kept in 16 bits (NarrowCache), and what was gathered is
        converted to float32 for the nodes that read it.
        """
        from openvino import opset13 as ops

        pools = [
            port for port in model.inputs if port.any_name == POOL and port.element_type == self._openvino.Type.f32
        ]
        if self._arithmetic == "float32" or not pools:
            return
        parameter = pools[0].get_node()
        gathers = list(_gathers(pools[0]))
        parameter.set_element_type(getattr(self._openvino.Type, HINTS[self._arithmetic]))
        for gather in gathers:
            readers = list(gather.output(0).get_target_inputs())
            widened = ops.convert(gather, "f32")
            for reader in readers:
                reader.replace_source_output(widened.output(0))
        model.validate_nodes_and_infer_types()

    def hold(self, array: np.ndarray) -> np.ndarray:
        return array

    def release(self) -> None: ...  # nothing is kept between calls

    def cache(self, halves: int, slots: int, row: tuple[int, int], dtype: np.dtype) -> HostCache:
        if dtype == np.float32 and self._arithmetic != "float32":
            return NarrowCache(halves, slots, row, self._arithmetic)
        return HostCache(halves, slots, row, dtype)


def _names(ports) -> tuple[str, ...]:
    return tuple(port.any_name for port in ports)


def _gathers(port) -> Iterator[Any]:
    """The Gather nodes that read a pool, directly or through a Reshape."""
    for reader in (target.get_node() for target in port.get_target_inputs()):
        if reader.get_type_name() == "Gather":
            yield reader
        elif reader.get_type_name() == "Reshape":
            yield from _gathers(reader.output(0))
