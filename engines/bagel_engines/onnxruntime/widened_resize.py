"""A graph rewritten for ONNX Runtime on CUDA, which has no kernel that enlarges bfloat16 pictures (1.31.1).

Its Resize is given float32 and its result is rounded back: pixels are repeated, so not one number changes.
"""

from __future__ import annotations

from pathlib import Path


def with_wide_resize(graph: Path) -> bytes | None:
    """The graph with each Resize between two casts; None where there is nothing to change. Needs the onnx package."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(str(graph), load_external_data=False)
    nodes = []
    for number, node in enumerate(model.graph.node):
        if node.op_type != "Resize":
            nodes.append(node)
            continue
        given, out, wide = node.input[0], node.output[0], f"resize_{number}_wide"
        node.input[0], node.output[0] = wide, f"{wide}_out"
        nodes += [
            helper.make_node("Cast", [given], [wide], to=TensorProto.FLOAT),
            node,
            helper.make_node("CastLike", [node.output[0], given], [out]),
        ]
    if len(nodes) == len(model.graph.node):
        return None
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()
