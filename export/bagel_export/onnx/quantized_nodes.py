"""Graphs over quantised weights: standard nodes in the forms that engines recognise."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bagel_export.quantization.formats import FORMATS, Format
from bagel_export.quantization.quantize import FP8_LARGEST, LEAST_ROW, LEVELS
from bagel_export.quantization.rotation import hadamard
from bagel_export.weights.write import QuantizedTensor


class Rewriter:
    """Replaces the weights of one graph by quantised ones, one at a time. An activation that several weights multiply
    is rounded once for all of them."""

    def __init__(self, graph: ir.Graph):
        self._graph = graph
        self._rows: dict[tuple[int, float | None, int], tuple[ir.Value, ir.Value | None]] = {}
        self._constants: dict[str, ir.Value] = {}

    def quantize(self, weight: ir.Value, placed: QuantizedTensor) -> None:
        """Feed the nodes that read a weight from DequantizeLinear instead.

        A Linear's weight is stored (in, out) and read by MatMul, the form ONNX Runtime fuses; Gemm(transB) it does not.
        """
        layout, (values, scale) = placed.layout, (_initializer(t) for t in (placed.values, placed.scale))
        attributes = {"axis": 0 if layout.form == "conv8" else 1}
        if layout.block:
            attributes = {"axis": 0, "block_size": layout.block}
        node = ir.node("DequantizeLinear", [values, scale], attributes=attributes)
        (dense,) = node.outputs
        dense.name, dense.dtype, dense.shape = f"{weight.name}.dense", placed.scale.dtype, values.shape
        readers = [reader for reader, _ in weight.uses()]
        self._graph.insert_before(readers[0], node)
        for reader in readers:
            if layout.form == "conv8":
                reader.replace_input_with(list(reader.inputs).index(weight), dense)
            else:
                self._multiply(reader, dense, placed)
        assert weight.name is not None
        del self._graph.initializers[weight.name]
        for value in (values, scale):
            self._graph.register_initializer(value)

    def _multiply(self, gemm: ir.Node, dense: ir.Value, placed: QuantizedTensor) -> None:
        """x @ dense (+ bias) in place of Gemm(x, weight transposed, bias); x rounded as the weight was (_rounded)."""
        assert gemm.op_type == "Gemm"
        x, bias, out = gemm.inputs[0], gemm.inputs[2] if len(gemm.inputs) > 2 else None, gemm.outputs[0]
        assert x is not None
        factor = None
        if placed.layout.form == "w8a8":
            x, factor = self._rounded(gemm, x, None, placed)
        elif placed.layout.form == "fp8":
            x, factor = self._rounded(gemm, x, placed.reach, placed)
        nodes = [ir.node("MatMul", [x, dense])]
        for op, value in (("Mul", factor), ("Add", bias)):
            if value is not None:
                nodes.append(ir.node(op, [nodes[-1].outputs[0], value]))
        for node in nodes:
            (value,) = node.outputs
            value.type, value.shape = out.type, out.shape
        self._graph.insert_before(gemm, nodes)
        (result,) = nodes[-1].outputs
        out.replace_all_uses_with(result, replace_graph_outputs=True)
        result.name, out.name = out.name, None
        self._graph.remove(gemm, safe=True)

    def _rounded(
        self, reader: ir.Node, x: ir.Value, reach: float | None, placed: QuantizedTensor
    ) -> tuple[ir.Value, ir.Value | None]:
        """The activation x, rotated where the weight is, then rounded; and a factor for each row of the product, or
        None.

        reach None (w8a8): each row is divided by its own largest number before it is rounded, and the product
        multiplied by it again. Otherwise (fp8) all rows share the scale that lets `reach` be the largest number.
        """
        key = (id(x), reach, placed.rotated)
        if key not in self._rows:
            kept = next(f for f in FORMATS.values() if f.onnx == placed.scale.dtype)
            if placed.rotated:
                x = self._rotated(reader, x, placed, kept)
            nodes, rounded, factor = self._by_row(x, kept) if reach is None else self._by_reach(x, reach, kept)
            self._graph.insert_before(reader, nodes)
            self._rows[key] = rounded, factor
        return self._rows[key]

    def _rotated(self, reader: ir.Node, x: ir.Value, placed: QuantizedTensor, kept: Format) -> ir.Value:
        """x (rows, inputs) times the Hadamard matrix of each block: one product of (rows * blocks, block)."""
        block, inputs = placed.rotated, placed.values.shape[0]
        blocks = ir.node("Reshape", [x, self._constant(f"blocks_of_{block}", [-1, block], np.int64)])
        matrix = self._constant(f"hadamard_{block}", hadamard(block), kept.dtype)
        product = ir.node("MatMul", [blocks.outputs[0], matrix])
        rows = ir.node("Reshape", [product.outputs[0], self._constant(f"rows_of_{inputs}", [-1, inputs], np.int64)])
        self._graph.insert_before(reader, [blocks, product, rows])
        return _typed(rows, x)

    def _by_row(self, x: ir.Value, kept: Format) -> tuple[list[ir.Node], ir.Value, ir.Value]:
        size = ir.node("Abs", [x])
        largest = ir.node("ReduceMax", [size.outputs[0], self._constant("last_axis", [-1], np.int64)])
        factor = ir.node("Max", [largest.outputs[0], self._constant("least_row", LEAST_ROW, kept.dtype)])
        unit = ir.node("Div", [x, factor.outputs[0]])
        step = self._constant("row_step", 1 / LEVELS["w8a8"], kept.dtype)
        middle = self._constant("row_middle", 0, np.int8)
        values = ir.node("QuantizeLinear", [unit.outputs[0], step, middle])
        rounded = ir.node("DequantizeLinear", [values.outputs[0], step, middle])
        nodes = [size, largest, factor, unit, values, rounded]
        return nodes, _typed(rounded, x), factor.outputs[0]

    def _by_reach(self, x: ir.Value, reach: float, kept: Format) -> tuple[list[ir.Node], ir.Value, None]:
        step = self._constant(f"step_{reach / FP8_LARGEST:.9g}", reach / FP8_LARGEST, kept.dtype)
        middle = self._constant("fp8_middle", 0, FORMATS["fp8"].dtype)
        values = ir.node("QuantizeLinear", [x, step, middle])
        rounded = ir.node("DequantizeLinear", [values.outputs[0], step, middle])
        return [values, rounded], _typed(rounded, x), None

    def _constant(self, name: str, value: object, dtype: type | np.dtype) -> ir.Value:
        if name not in self._constants:
            array = np.asarray(value).astype(dtype)
            tensor, shape = ir.tensor(array, name=name), ir.Shape(array.shape)
            constant = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
            self._graph.register_initializer(constant)
            self._constants[name] = constant
        return self._constants[name]


def _initializer(tensor: ir.ExternalTensor) -> ir.Value:
    return ir.Value(
        name=tensor.name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )


def _typed(node: ir.Node, like: ir.Value) -> ir.Value:
    (value,) = node.outputs
    value.type, value.shape = like.type, like.shape
    return value
