"""A graph's products with quantised weights as ONNX Runtime's kernels for CUDA take them, made at load.

The portable graph widens weights (DequantizeLinear) and multiplies. Sessions turn some of these pairs into MatMulNBits,
each session with an arrangement of the weights of its own; others unpack their weights in each call, or have no kernel
at all where the arithmetic is bfloat16 (1.31.1). Here each is one node over weights that all sessions share:

    8 and 4 bits in blocks       MatMulNBits
    8 bits, a scale per output   MatMulNBits, the scale repeated for each block of inputs. Rows that the graph rounds
    (w8a8)                       to 8 bits for it are left as they are: nothing here multiplies in integers as fast as
                                 in 16 bits (MatMulInteger took six times as long on an H100)
    fp8                          MatMulBlockQuantizedFp8Weight, which rounds the rows as the graph does
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bagel_engines.onnxruntime.graph_walk import Walk, in_order, number
from bagel_engines.onnxruntime.made_weights import Made, stated
from bagel_engines.onnxruntime.unread_nodes import drop_unread

MICROSOFT = "com.microsoft"
NBITS, FP8 = "MatMulNBits", "MatMulBlockQuantizedFp8Weight"
BLOCKS = (128, 64, 32, 16)  # inputs that share a scale: the largest that divides
FLOAT, UINT8 = 1, 2
BITS = {3: 8, 22: 4}  # by ONNX's number of the weights' type: int8, int4
FLOAT8 = 17  # e4m3fn


@dataclass(frozen=True)
class Codes:
    """Whole numbers (inputs, outputs), some products' one behind the other, as MatMulNBits reads them: (outputs,
    blocks, bytes of a block), unsigned, the middle added."""

    bits: int
    block: int

    def __call__(self, *parts: np.ndarray) -> np.ndarray:
        return np.concatenate([self._of(part) for part in parts])

    def _of(self, values: np.ndarray) -> np.ndarray:
        middle = np.uint8(1 << (self.bits - 1))
        rows = np.ascontiguousarray(values.astype(np.int8, copy=False).view(np.uint8).T) + middle  # modulo 256
        if self.bits == 4:
            rows = rows[:, 0::2] | (rows[:, 1::2] << np.uint8(4))
        return rows.reshape(len(rows), -1, self.block * self.bits // 8)


@dataclass(frozen=True)
class Scales:
    """Scales (blocks, outputs), or (outputs,) for all blocks, as MatMulNBits reads them: (outputs, blocks)."""

    blocks: int

    def __call__(self, *parts: np.ndarray) -> np.ndarray:
        return np.concatenate([np.broadcast_to(part, (self.blocks, part.shape[-1])).T for part in parts])


@dataclass(frozen=True)
class Turned:
    """Weights (inputs, outputs) with the outputs first."""

    def __call__(self, *parts: np.ndarray) -> np.ndarray:
        return np.concatenate([np.ascontiguousarray(part.view(np.uint8).T) for part in parts]).view(parts[0].dtype)


@dataclass(frozen=True)
class Wide:
    """A scale for each output in float32, as a column."""

    def __call__(self, *parts: np.ndarray) -> np.ndarray:
        return np.concatenate(parts).astype(np.float32)[:, None]


@dataclass(frozen=True)
class _Product:
    """rows: what is multiplied; out: the result's name; step: of rows that are rounded to fp8, else None."""

    rows: str
    out: str
    values: Any
    scale: Any
    step: Any = None

    @property
    def block(self) -> int:
        """Inputs that share a scale; 0 where no block divides them."""
        inputs = self.values.dims[0]
        if len(self.scale.dims) == 2:
            return inputs // self.scale.dims[0]
        return next((size for size in BLOCKS if inputs % size == 0), 0)


Products = dict[str, Made]


def use_kernels(model: Any) -> Products:
    """Rewrite every product whose weights are stored with few bits; returns the initializers that no file holds."""
    graph, made = model.graph, Products()
    walk, stored = Walk(graph), {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    steps: dict[str, Any] = {}
    replaced: set[str] = set()  # results of nodes that are replaced
    for node in graph.node:
        found = _product(walk, stored, node) if node.op_type == "MatMul" else None
        if found is not None:
            nodes.append(_made(found, made, steps))
            replaced |= {node.output[0], found.out}
    if not made:
        return made
    nodes += [node for node in graph.node if node.output[0] not in replaced]
    del graph.node[:]
    graph.node.extend(in_order(nodes))
    graph.initializer.extend(steps.values())
    stated(graph, made)
    drop_unread(graph)
    know_microsoft(model)
    return made


def _product(walk: Walk, stored: dict[str, Any], node: Any) -> _Product | None:
    widened = walk.makers.get(node.input[1])
    if widened is None or widened.op_type != "DequantizeLinear" or not set(widened.input) <= set(stored):
        return None
    values, scale = (stored[name] for name in widened.input[:2])
    if len(widened.input) > 2 or len(values.dims) != 2 or number(widened, "axis", 1) != 2 - len(scale.dims):
        return None
    rows, rounded = node.input[0], _rounding(walk, node.input[0])
    if values.data_type in BITS:
        given, out = (rows, node.output[0]) if rounded is None else _unrounded(walk, node, rounded)
        found = _Product(given, out, values, scale)
        return found if found.block else None
    if values.data_type != FLOAT8 or rounded is None or rounded.input[1] not in stored or len(scale.dims) != 1:
        return None
    return _Product(rounded.input[0], node.output[0], values, scale, stored[rounded.input[1]])


def _rounding(walk: Walk, rows: str) -> Any:
    """The QuantizeLinear whose result is widened again to these rows."""
    widened = walk.makers.get(rows)
    if widened is None or widened.op_type != "DequantizeLinear":
        return None
    rounded = walk.makers.get(widened.input[0])
    return rounded if rounded is not None and rounded.op_type == "QuantizeLinear" else None


def _unrounded(walk: Walk, node: Any, rounded: Any) -> tuple[str, str]:
    """Rows before they were divided by their largest number and rounded, and the product with that number's result."""
    divided = walk.makers.get(rounded.input[0])
    readers = walk.readers.get(node.output[0], [])
    times = readers[0] if len(readers) == 1 and readers[0].op_type == "Mul" else None
    if divided is not None and divided.op_type == "Div" and times is not None and divided.input[1] in times.input:
        return divided.input[0], times.output[0]
    return rounded.input[0], node.output[0]


def _made(product: _Product, made: Products, steps: dict[str, Any]) -> Any:
    inputs, outputs = product.values.dims
    codes, scales = f"{product.values.name}.codes", f"{product.scale.name}.codes"
    if product.step is not None:
        made[codes] = Made((product.values.name,), Turned(), FLOAT8, (outputs, inputs))
        made[scales] = Made((product.scale.name,), Wide(), FLOAT, (outputs, 1))
        return _node(FP8, [product.rows, codes, scales, _step(product.step, steps)], product.out, block_size=inputs)
    bits, block = BITS[product.values.data_type], product.block
    shape = (outputs, inputs // block, block * bits // 8)
    made[codes] = Made((product.values.name,), Codes(bits, block), UINT8, shape)
    made[scales] = Made((product.scale.name,), Scales(shape[1]), product.scale.data_type, shape[:2])
    how = {"K": inputs, "N": outputs, "bits": bits, "block_size": block}
    return _node(NBITS, [product.rows, codes, scales], product.out, **how)


def _step(stored: Any, steps: dict[str, Any]) -> str:
    """The step of rows as a float32 number; alike ones are one."""
    from onnx import numpy_helper

    value = np.array(numpy_helper.to_array(stored), np.float32).reshape(())
    name = f"fp8_step_{value:.9g}"
    steps[name] = numpy_helper.from_array(value, name)
    return name


def _node(kind: str, inputs: list[str], out: str, **how: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, inputs, [out], name=out, domain=MICROSOFT, **how)


def know_microsoft(model: Any) -> None:
    """Let a graph use operators of ONNX Runtime's own."""
    from onnx import helper

    if not any(entry.domain == MICROSOFT for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
