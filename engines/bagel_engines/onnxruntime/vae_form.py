"""A VAE's graph as ONNX Runtime runs it on CUDA: channels last, in float16 or float32, made at load.

Convolutions are NhwcConv, a norm with the activation behind it is one GroupNorm, and one with the sum before it a
SkipGroupNorm; the portable graph's GroupNormalization has no kernel there and becomes some seven nodes each (1.31.1).
com.microsoft's has one for float16 and none for bfloat16, so a bfloat16 VAE is computed in float16, too, which has
three more bits.

What a VAE adds up from block to block can exceed what float16 holds. Everything that goes into a norm is therefore
divided by 16, by the weights of the convolutions that make it; the norm's epsilon is divided likewise, and what it
gives is the same. Only numbers above a million are too large then, and they are seen: the picture is not finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines.onnxruntime.graph_walk import NotAsExpected, Walk, in_order, number
from bagel_engines.onnxruntime.made_weights import Made, stated
from bagel_engines.onnxruntime.quantised_products import FLOAT, MICROSOFT, know_microsoft
from bagel_engines.onnxruntime.unread_nodes import drop_unread

VAES = ("vae_encoder", "vae_decoder")
FLOAT16 = 10
DIVISOR = 16  # a power of two: dividing by it rounds nothing
LAST, FIRST = [0, 2, 3, 1], [0, 3, 1, 2]  # permutations: to channels last, and back


@dataclass(frozen=True)
class Filters:
    """A convolution's weights (outputs, inputs, height, width), of 8-bit ones times their scales, the channels last."""

    factor: float
    type: int

    def __call__(self, *parts: np.ndarray) -> np.ndarray:
        weights = parts[0].astype(np.float32)
        if len(parts) == 2:
            weights *= parts[1].astype(np.float32)[:, None, None, None]
        return (weights.transpose(LAST) * np.float32(self.factor)).astype(_numpy(self.type))


@dataclass(frozen=True)
class Numbers:
    """A number for each channel."""

    factor: float
    type: int

    def __call__(self, *parts: np.ndarray) -> np.ndarray:
        return (parts[0].astype(np.float32) * np.float32(self.factor)).astype(_numpy(self.type))


def _numpy(kind: int) -> type:
    return np.float16 if kind == FLOAT16 else np.float32


def with_channels_last(graph: Path, half: bool) -> tuple[bytes, dict[str, Made]] | None:
    """The graph and its weights, which no file holds. half: in float16, else float32. None where the graph is not built
    as this knows it. Needs the onnx package."""
    import onnx

    model = onnx.load(str(graph), load_external_data=False)
    try:
        made = _Rewriting(model, half).done()
    except NotAsExpected:
        return None
    return model.SerializeToString(), made


class _Rewriting:
    """Tensors keep their names, with the channels last. Others are named "last_..." or after one of them."""

    def __init__(self, model: Any, half: bool):
        self._model, self._graph, self._walk = model, model.graph, Walk(model.graph)
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._kind, self._divisor = (FLOAT16, DIVISOR) if half else (FLOAT, 1)
        self._divided: set[str] = set()
        self._names: dict[str, str] = {}  # of tensors of the portable graph that go by another name here
        self._made: dict[str, Made] = {}
        self._nodes: list[Any] = []

    def done(self) -> dict[str, Made]:
        self._begin()
        for node in self._graph.node:
            self._rewrite(node)
        self._end()
        graph = self._graph
        del graph.node[:], graph.value_info[:]
        graph.node.extend(in_order(self._nodes))
        stated(graph, self._made)
        drop_unread(graph)
        know_microsoft(self._model)
        return self._made

    def _rewrite(self, node: Any) -> None:
        steps: dict[str, Callable[[Any], None]] = {
            "Conv": self._convolution,
            "GroupNormalization": self._norm,
            "Add": self._sum,
            "Resize": self._resize,
            "Attention": self._attention,
            "Cast": self._cast,
            "Mul": self._activation,
        }
        around = ("Sigmoid", "DequantizeLinear", "Constant")  # of activations and weights
        of_attention = ("Shape", "Concat", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Gather", "Div")
        if node.op_type in steps:
            steps[node.op_type](node)
        elif node.op_type not in (*around, *of_attention):
            raise NotAsExpected(f"{node.op_type} in a VAE")

    def _begin(self) -> None:
        if len(self._graph.input) != 1 or len(self._graph.output) != 1:
            raise NotAsExpected("a VAE makes one tensor of one")
        (given,) = self._graph.input
        self._add("Transpose", [given.name], "last_given", perm=LAST)
        self._names[given.name] = "last_given"
        if self._kind == FLOAT16:
            self._add("Cast", ["last_given"], "last_begin", to=FLOAT16)
            self._names[given.name] = "last_begin"

    def _end(self) -> None:
        (wanted,) = self._graph.output
        last = self._at(wanted.name)
        if last in self._divided:
            raise NotAsExpected(f"{wanted.name} is not a convolution's")
        if self._kind == FLOAT16:
            self._add("Cast", [last], "last_end", to=FLOAT)
            last = "last_end"
        self._add("Transpose", [last], wanted.name, perm=FIRST)

    def _convolution(self, node: Any) -> None:
        given, plain = self._at(node.input[0]), self._seen_as_it_is(node.output[0])
        divided = given in self._divided
        if plain and divided:
            raise NotAsExpected(f"{node.output[0]} is made of what no norm has seen")
        factor = 1.0 if plain else 1 / self._divisor
        out = self._own(node.output[0])
        weights, parts = f"{out}.filters", self._weights_of(node)
        outputs, inputs, height, width = self._dims(parts[0], 4)
        how = Filters(1.0 if divided else factor, self._kind)
        self._made[weights] = Made(parts, how, self._kind, (outputs, height, width, inputs))
        names = [given, weights]
        if len(node.input) > 2:
            names.append(self._numbers(f"{out}.bias", node.input[2], factor, self._kind))
        self._add("NhwcConv", names, out, MICROSOFT, like=node)
        if not plain:
            self._divided.add(out)

    def _weights_of(self, node: Any) -> tuple[str, ...]:
        name = node.input[1]
        parts = (name,) if name in self._stored else tuple(self._walk.maker(name, "DequantizeLinear").input)
        if not set(parts) <= set(self._stored):
            raise NotAsExpected(f"{name} is not stored")
        return parts

    def _seen_as_it_is(self, name: str) -> bool:
        """Whether a convolution's result is read by attention, or leaves the graph: neither norms it first."""
        ends = {output.name for output in self._graph.output}
        readers = self._walk.readers.get(name, [])
        return name in ends or any(r.op_type == "Reshape" or set(r.output) & ends for r in readers)

    def _norm(self, node: Any) -> None:
        added = self._walk.makers.get(node.input[0])
        joined = added is not None and self._joined(added) is node
        given = [self._at(name) for name in (added.input if added is not None and joined else node.input[:1])]
        divided = self._are_divided(given)
        if joined and divided:
            self._divided.add(node.input[0])
        epsilon = number(node, "epsilon", 1e-5) / (self._divisor**2 if divided else 1)
        if not self._fits(node):
            self._norm_in_parts(node, given[0], epsilon)
            return
        out, active = self._activated(node)
        of_norm = [self._numbers(f"{out}.{i}", name, 1.0, FLOAT) for i, name in enumerate(node.input[1:])]
        names, outputs = [given[0], *of_norm, *given[1:]], [out, *([node.input[0]] if joined else [])]
        kind, groups = "SkipGroupNorm" if joined else "GroupNorm", int(number(node, "num_groups", 0))
        how = {"groups": groups, "activation": int(active), "channels_last": 1}
        self._add(kind, names, outputs, MICROSOFT, epsilon=epsilon, **how)

    def _norm_in_parts(self, node: Any, given: str, epsilon: float) -> None:
        """A norm that the kernel cannot take: in the standard's operators, with the channels first for it."""
        out, active = self._activated(node)
        of_norm = [self._numbers(f"{out}.{i}", name, 1.0, self._kind) for i, name in enumerate(node.input[1:])]
        self._add("Transpose", [given], f"{out}.given", perm=FIRST)
        groups = int(number(node, "num_groups", 0))
        how = {"num_groups": groups, "epsilon": epsilon, "stash_type": FLOAT}
        self._add("GroupNormalization", [f"{out}.given", *of_norm], f"{out}.normed", **how)
        if active:
            self._add("QuickGelu", [f"{out}.normed"], f"{out}.active", MICROSOFT, alpha=1.0)
        self._add("Transpose", [f"{out}.active" if active else f"{out}.normed"], out, perm=LAST)

    def _activated(self, node: Any) -> tuple[str, bool]:
        """The name of a norm's result, behind the activation where there is one, and whether there is."""
        readers = self._walk.readers[node.output[0]]
        if not any(reader.op_type == "Sigmoid" for reader in readers):
            return node.output[0], False
        return next(reader for reader in readers if reader.op_type == "Mul").output[0], True

    def _fits(self, norm: Any) -> bool:
        """Whether GroupNorm's kernel takes its channels: it computes two of a group at once."""
        groups, (channels,) = int(number(norm, "num_groups", 0)), self._dims(norm.input[1], 1)
        return groups > 0 and channels % (2 * groups) == 0

    def _are_divided(self, given: list[str]) -> bool:
        """Whether these, which are added up, were divided."""
        divided = {name in self._divided for name in given}
        if len(divided) > 1:
            raise NotAsExpected(f"one of {given} is divided")
        return divided == {True}

    def _joined(self, added: Any) -> Any:
        """The norm that a sum is computed with: the first that reads it."""
        if added.op_type != "Add":
            return None
        readers = self._walk.readers.get(added.output[0], [])
        norm = next((node for node in readers if node.op_type == "GroupNormalization"), None)
        return norm if norm is not None and self._fits(norm) else None

    def _sum(self, node: Any) -> None:
        if self._joined(node) is not None:
            return
        given = [self._at(name) for name in node.input]
        if self._are_divided(given):
            self._divided.add(node.output[0])
        self._add("Add", given, self._own(node.output[0]))

    def _activation(self, node: Any) -> None:
        gate = self._walk.maker(node.input[1], "Sigmoid")
        if gate.input[0] != node.input[0]:
            raise NotAsExpected(f"{node.output[0]} is no activation")
        self._walk.maker(node.input[0], "GroupNormalization")

    def _resize(self, node: Any) -> None:
        given, scales = self._at(node.input[0]), self._stored.get(node.input[2])
        if scales is None or len(node.input) > 3:
            raise NotAsExpected(f"{node.output[0]} is not enlarged by numbers that are stored")
        from onnx import numpy_helper

        last = numpy_helper.to_array(scales)[LAST]
        out = self._own(node.output[0])
        self._add("Resize", [given, "", self._constant(f"{out}.scales", last)], out, like=node)
        if given in self._divided:
            self._divided.add(out)

    def _attention(self, node: Any) -> None:
        names = [self._walk.before(name, "Unsqueeze", "Transpose", "Reshape") for name in node.input[:3]]
        out, rows = node.output[0], []
        (channels, *_) = self._dims(self._weights_of(self._walk.maker(names[0], "Conv"))[0], 4)
        shape = self._constant(f"{out}.shape", np.array([1, 1, -1, channels], np.int64))
        for name in names:
            rows.append(f"{name}.rows")
            self._add("Reshape", [self._at(name), shape], rows[-1])
        self._add("Attention", rows, f"{out}.rows", like=node)
        self._add("Shape", [self._at(names[0])], f"{out}.as_before")
        self._add("Reshape", [f"{out}.rows", f"{out}.as_before"], self._behind(out))

    def _behind(self, name: str) -> str:
        for kind in ("Gather", "Transpose", "Reshape"):
            (reader,) = self._walk.readers[name]
            if reader.op_type != kind:
                raise NotAsExpected(f"{name} goes to {reader.op_type}, not {kind}")
            name = reader.output[0]
        return name

    def _cast(self, node: Any) -> None:
        self._names[node.output[0]] = self._at(node.input[0])

    def _numbers(self, name: str, stored: str, factor: float, kind: int) -> str:
        self._made[name] = Made((stored,), Numbers(factor, kind), kind, tuple(self._dims(stored, 1)))
        return name

    def _dims(self, name: str, rank: int) -> list[int]:
        if name not in self._stored or len(self._stored[name].dims) != rank:
            raise NotAsExpected(f"{name} is not stored with {rank} axes")
        return list(self._stored[name].dims)

    def _at(self, name: str) -> str:
        return self._names.get(name, name)

    def _own(self, name: str) -> str:
        """The name for a tensor that is made here; the graph's output is made of it at the end."""
        if name in {output.name for output in self._graph.output}:
            self._names[name] = f"last_{name}"
        return self._at(name)

    def _constant(self, name: str, value: np.ndarray) -> str:
        from onnx import helper, numpy_helper

        self._nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)))
        return name

    def _add(
        self, kind: str, inputs: list[str], output: str | list[str], domain: str = "", like: Any = None, **how: Any
    ) -> None:
        from onnx import helper

        outputs = [output] if isinstance(output, str) else output
        self._nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **how))
        if like is not None:
            self._nodes[-1].attribute.extend(like.attribute)
