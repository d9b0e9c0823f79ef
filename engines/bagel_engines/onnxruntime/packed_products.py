"""Three products of the same rows made one: queries, keys and values of one GroupQueryAttention, which takes them so.

The weights of the one product are those of the three, one behind the other (outputs first, as Gemm with transB reads
them). They lie in no file; a session must be given them (cuda_form.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bagel_engines.onnxruntime.graph_walk import Walk, in_order, number

NOWHERE = 1 << 60  # an offset no file has

Packed = dict[str, tuple[str, ...]]  # name of an initializer -> those it is made of, in order, along the first axis


def pack_products(graph: Any) -> Packed:
    """Rewrite a graph with fused attention; returns the initializers that it now has and no file holds."""
    walk, packed = Walk(graph), Packed()
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type == "GroupQueryAttention" and (gemms := _gemms(walk, node, stored)):
            nodes += _packed(graph, walk, node, gemms, packed, stored)
        nodes.append(node)
    gone = {name for one in packed.values() for name in one}
    kept = [n for n in nodes if not (n.op_type == "Gemm" and n.input[1] in gone)]
    del graph.node[:]
    graph.node.extend(in_order(kept))
    return packed


def _gemms(walk: Walk, attention: Any, stored: dict[str, Any]) -> list[Any]:
    """The products that make its queries, keys and values, if they can be one."""
    lifted = [walk.makers.get(name) for name in attention.input[:3]]
    found = [walk.makers.get(node.input[0]) if node is not None else None for node in lifted]
    gemms = [node for node in found if node is not None and node.op_type == "Gemm"]
    alike = len(gemms) == 3 and len({node.input[0] for node in gemms}) == 1
    plain = all(number(n, "transB", 0) and set(n.input[1:]) <= set(stored) for n in gemms)
    return gemms if alike and plain and len({len(n.input) for n in gemms}) == 1 else []


def _packed(graph: Any, walk: Walk, attention: Any, gemms: list[Any], packed: Packed, stored: dict[str, Any]) -> list:
    """The nodes before the attention, which is changed to read the one product."""
    from onnx import helper, numpy_helper

    name = f"{gemms[0].output[0]}_packed"
    inputs = [gemms[0].input[0]]
    for parts in zip(*(node.input[1:] for node in gemms), strict=True):
        whole = f"{parts[0]}.packed"
        packed[whole] = tuple(parts)
        graph.initializer.append(_stated(whole, [stored[part] for part in parts]))
        inputs.append(whole)
    nodes = [helper.make_node("Gemm", inputs, [name], name=name, transB=1)]
    width = stored[gemms[0].input[1]].dims[0]
    lifted = walk.maker(attention.input[0], "Unsqueeze")
    nodes.append(helper.make_node("Unsqueeze", [name, lifted.input[1]], [f"{name}_3d"], name=f"{name}_3d"))
    if len(walk.readers[gemms[0].output[0]]) > 1:  # the und queries of gen_step attend by themselves, too
        bounds = {f"{name}_{end}": np.array([end], np.int64) for end in (0, width, 1)}
        nodes += [helper.make_node("Constant", [], [n], value=numpy_helper.from_array(a)) for n, a in bounds.items()]
        nodes.append(helper.make_node("Slice", [name, *bounds], [gemms[0].output[0]], name=f"{name}_queries"))
    attention.input[:] = [f"{name}_3d", "", "", *attention.input[3:]]
    return nodes


def _stated(name: str, parts: list[Any]) -> Any:
    """An initializer of the parts' type. onnxruntime wants the file of one that it is given, too, to exist; nothing is
    at this place in it, so that one that was not given cannot be read by mistake."""
    from onnx import TensorProto, helper

    shape = [sum(part.dims[0] for part in parts), *parts[0].dims[1:]]
    tensor = TensorProto(name=name, data_type=parts[0].data_type, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    location = next((e.value for e in parts[0].external_data if e.key == "location"), "given to the session")
    size = helper.tensor_dtype_to_np_dtype(parts[0].data_type).itemsize * int(np.prod(shape))
    for key, value in (("location", location), ("offset", NOWHERE), ("length", size)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
