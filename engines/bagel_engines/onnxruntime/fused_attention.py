"""A step graph's attention rewritten for ONNX Runtime on CUDA: one GroupQueryAttention for each expert and layer.

com.microsoft GroupQueryAttention norms and rotates queries and keys, appends keys and values behind the past and
attends, all in four launches (1.31.1); the portable graph takes some twenty. It appends in place where the past has
room behind it and nothing else reads it. So the past is gathered with as many slots more as there are new rows: what is
in them does not matter, since it is written before it is read. Nothing of the past is copied beyond that gather.

    und_step    und rows behind the past, causal or not: that is an attribute, so there is a graph for each
    gen_step    und rows behind the past, then gen rows behind those, which see everything. The operator takes one norm
                for all its rows and the experts have two, and the und queries must see the gen rows, too: they attend
                in a third call, without a mask, over what the second left behind

Which graph a mask is for decides its reader (masked_runner.py). A mask that is neither causal nor open, as that of
several texts in one call, is an input, added to the scores: the operator's attention has more launches then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bagel_engines.onnxruntime.graph_walk import NotAsExpected, Walk, in_order, number
from bagel_engines.onnxruntime.pool_half import HALF, POOL

MICROSOFT = "com.microsoft"
SLOTS, NEW_KV, MASK = "slots", "new_kv", "mask"
AT_ONCE = 32  # results of one Split: with more, its kernel is given their addresses by a copy from the host
CACHE_SLOTS = "cache_slots"  # those of the past and, behind them, room for what is new
LENGTHS = ("und_length", "length")  # of the cache behind the und rows, and behind all rows: see length_inputs
LARGEST = 2**63 - 1
UNSEEN = -3e4  # added to the score of a key that a row must not see


@dataclass(frozen=True)
class Rows:
    """What attention takes of one expert's rows in a layer, by names of tensors. q, k, v: (rows, heads * dim), as the
    products give them; rope: cos and sin (rows, dim); norms: weights of q and k, none where they are not normed; kept:
    k and v as the portable graph caches them, (rows, kv heads, dim)."""

    q: str
    k: str
    v: str
    rope: tuple[str, str]
    norms: tuple[str, ...]
    epsilon: float
    kept: tuple[str, str]


@dataclass(frozen=True)
class Layer:
    """past: gathered keys and values (kv heads, past, dim); attended: the results' names, (rows, heads * dim)."""

    past: tuple[str, str]
    experts: tuple[Rows, ...]
    attended: tuple[str, ...]


@dataclass(frozen=True)
class Heads:
    queries: int
    kv: int
    dim: int


def layers_of(graph: Any) -> list[Layer]:
    """A step graph's layers in their order. Raises NotAsExpected where it is built in another way."""
    walk = Walk(graph)
    found = [node for node in graph.node if node.op_type == "Attention" and not node.domain]
    masked = [i for i, node in enumerate(found) if len(node.input) == 4]
    if not masked or masked[0] != 0:
        raise NotAsExpected("no attention with a mask comes first")
    groups = [found[a:b] for a, b in zip(masked, [*masked[1:], len(found)], strict=True)]
    return [_layer(walk, group) for group in groups]


def _layer(walk: Walk, attentions: list[Any]) -> Layer:
    parts = [walk.maker(walk.before(name, "Unsqueeze"), "Concat").input for name in attentions[0].input[1:3]]
    past = tuple(walk.maker(names[0], "Gather").output[0] for names in parts)
    keys, values = ([walk.before(name, "Transpose") for name in names[1:]] for names in parts)
    if not len(keys) == len(values) == len(attentions) <= 2:
        raise NotAsExpected(f"{len(attentions)} attentions over {len(keys)} kinds of rows")
    experts = [_rows(walk, a.input[0], k, v) for a, k, v in zip(attentions, keys, values, strict=True)]
    return Layer((past[0], past[1]), tuple(experts), tuple(_result(walk, node) for node in attentions))


def _rows(walk: Walk, query: str, key: str, value: str) -> Rows:
    q, q_norm, rope, epsilon = _as_made(walk, walk.before(query, "Unsqueeze", "Transpose"))
    k, k_norm, _, _ = _as_made(walk, key)
    norms = tuple(name for name in (q_norm, k_norm) if name)
    return Rows(q, k, walk.before(value, "Reshape"), rope, norms, epsilon, (key, value))


def _as_made(walk: Walk, rotated: str) -> tuple[str, str, tuple[str, str], float]:
    """From rotated rows back to the product: its name, the norm's weight or "", cos and sin, and the norm's epsilon."""
    plain, turned = (walk.maker(name, "Mul") for name in walk.maker(rotated, "Add").input)
    rope = tuple(walk.before(node.input[1], "Unsqueeze") for node in (plain, turned))
    walk.maker(turned.input[0], "Concat")
    made = walk.maker(plain.input[0], "RMSNormalization", "Reshape")
    if made.op_type == "Reshape":
        return made.input[0], "", (rope[0], rope[1]), 1e-6
    product = walk.before(made.input[0], "Reshape")
    return product, made.input[1], (rope[0], rope[1]), number(made, "epsilon", 1e-5)


def _result(walk: Walk, attention: Any) -> str:
    """The name of what the output product reads: heads side by side again."""
    name = attention.output[0]
    for kind in ("Gather", "Transpose", "Reshape"):
        (reader,) = walk.readers[name]
        if reader.op_type != kind:
            raise NotAsExpected(f"{name} goes to {reader.op_type}, not {kind}")
        name = reader.output[0]
    return name


def fuse_attention(model: Any, heads: Heads, causal: bool, masked: bool = False) -> list[Layer]:
    """Rewrite a step graph's attention; returns the layers as they were found. causal: und rows of a graph without gen
    rows see those before them only; masked: what its mask says.

    New inputs, for each name of LENGTHS that the graph has: `length` int32 (on the host), tokens of the cache then, and
    `length_last` int32 (1,), one less. The input `mask` is left out but where it is read. Raises NotAsExpected, the
    graph unchanged.
    """
    graph = model.graph
    layers = layers_of(graph)
    kept = _new_kv_in_order(Walk(graph), layers)
    kind = next(value for value in graph.input if value.name == POOL).type.tensor_type.elem_type
    builder = _Builder(heads, causal, len(layers), len(layers[0].experts), kind if masked else None)
    made = {name: node for node in graph.node for name in node.output}
    dropped = {id(made[name]) for layer in layers for name in layer.attended} | {id(kept)}
    nodes = [node for node in graph.node if id(node) not in dropped]
    nodes += builder.prologue(layers[0])
    for i, layer in enumerate(layers):
        nodes += builder.layer(i, layer)
    nodes += builder.epilogue()
    del graph.node[:]
    graph.node.extend(in_order(nodes))
    _set_inputs(model, len(layers[0].experts), masked)
    _state_shapes(graph, builder.caches, heads)
    return layers


def _new_kv_in_order(walk: Walk, layers: list[Layer]) -> Any:
    """The node that puts new keys and values together, which must have them in the layers' order."""
    node = walk.maker(NEW_KV, "Concat")
    wanted = [[rows.kept[half] for rows in layer.experts] for layer in layers for half in (0, 1)]
    for name, parts in zip(node.input, wanted, strict=True):
        whole = walk.before(name, "Unsqueeze")
        given = [whole] if len(parts) == 1 else list(walk.maker(whole, "Concat").input)
        if given != parts:
            raise NotAsExpected(f"{NEW_KV} has {given} where {parts} is expected")
    return node


def _state_shapes(graph: Any, caches: list[str], heads: Heads) -> None:
    """Say that a cache is as long before as after: only then is it planned to be written in place."""
    from onnx import helper

    kind = next(value for value in graph.input if value.name == POOL).type.tensor_type.elem_type
    shape = [1, heads.kv, "cache_keys", heads.dim]
    graph.value_info.extend(helper.make_tensor_value_info(name, kind, shape) for name in dict.fromkeys(caches))


def _set_inputs(model: Any, experts: int, masked: bool) -> None:
    from onnx import TensorProto, helper

    graph = model.graph
    kept = [value for value in graph.input if value.name != MASK or masked]
    del graph.input[:]
    graph.input.extend(kept)
    for name in LENGTHS[2 - experts :]:
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT32, []))
        graph.input.append(helper.make_tensor_value_info(f"{name}_last", TensorProto.INT32, [1]))
    if not any(entry.domain == MICROSOFT for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))


class _Builder:
    """Makes the nodes. Everything it names itself begins with "fused_"."""

    def __init__(self, heads: Heads, causal: bool, layers: int, experts: int, masked: int | None):
        """masked: ONNX's number of the rows' type where the mask is read."""
        self._heads, self._causal, self._layers, self._experts = heads, causal, layers, experts
        self._masked = masked
        self._made: list[Any] = []
        self.caches: list[str] = []  # names of the cache before and after each expert's rows
        self._count = 0
        self._new: list[str] = []

    def prologue(self, first: Layer) -> list[Any]:
        """Once in a graph: slots with room behind them, and rotations by their place in the cache, (keys, dim / 2)."""
        half = self._heads.dim // 2
        none, end = self._ints([0]), self._ints([half])
        rooms = []
        for rows in first.experts:
            size = self._node("Shape", [rows.rope[0]], start=0, end=1)
            rooms.append(self._node("Expand", [none, size]))
        self._node("Concat", [SLOTS, *rooms], output=CACHE_SLOTS, axis=0)
        self._node("Shape", [SLOTS], output="fused_past", start=0, end=1)
        if self._masked is not None:
            self._node("Unsqueeze", [self._scores(self._masked), self._ints([0, 1])], output="fused_mask")
        self._gathered_rows()
        nowhere = self._node("Mul", [SLOTS, none])
        for number_, name in enumerate(("cos", "sin")):
            halves = [
                self._node("Slice", [rows.rope[number_], none, end, self._ints([1])], output=f"fused_{name}_{i}")
                for i, rows in enumerate(first.experts)
            ]
            self._node("Concat", [self._node("Gather", [halves[0], nowhere], axis=0), *halves], f"fused_{name}", axis=0)
        if self._experts == 2:  # the und queries are rotated by themselves
            for name in ("cos", "sin"):
                self._node("Unsqueeze", [f"fused_{name}_0", none], output=f"fused_{name}_und")
        return self._taken()

    def _scores(self, kind: int) -> str:
        """What is added to scores: (rows, keys), of that type."""
        seen, unseen = (self._node("Cast", [self._floats(value)], to=kind) for value in (0.0, UNSEEN))
        return self._node("Where", [MASK, seen, unseen])

    def _gathered_rows(self) -> None:
        """Where each layer's keys and values lie in the pool's rows (1, kv heads, keys), for all layers at once."""
        kv = self._heads.kv
        self._node("Reshape", [POOL, self._ints([-1, self._heads.dim])], output="fused_pool")
        slots = self._node("Mul", [CACHE_SLOTS, self._ints([kv])])
        rows = self._node("Add", [slots, self._ints([[head] for head in range(kv)])])
        unit = self._node("Mul", [HALF, self._ints([kv])])
        for half in (0, 1):
            for first in range(0, self._layers, AT_ONCE):
                some = range(first, min(first + AT_ONCE, self._layers))
                start = self._node("Mul", [unit, self._ints([[[2 * layer + half]] for layer in some])])
                names = [f"fused_rows_{layer}_{half}" for layer in some]
                whole = self._node("Add", [rows, start], output=names[0] if len(names) == 1 else "")
                if len(names) > 1:
                    self._add("Split", [whole], names, axis=0, num_outputs=len(names))

    def layer(self, number_: int, layer: Layer) -> list[Any]:
        none = self._ints([0])
        cache = [self._node("Gather", ["fused_pool", f"fused_rows_{number_}_{half}"], axis=0) for half in (0, 1)]
        for i, rows in enumerate(layer.experts):
            length = LENGTHS[2 - self._experts + i]
            given = [self._node("Unsqueeze", [name, none]) for name in (rows.q, rows.k, rows.v)]
            result, cache = self._grouped(given, cache, length, rows)
            if i == self._experts - 1:
                self._node("Squeeze", [result, none], output=layer.attended[i])
        if self._experts == 2:
            self._und_queries(layer.experts[0], cache, layer.attended[0])
        for name in cache:
            self._new.append(
                self._node("Slice", [name, "fused_past", self._ints([LARGEST]), self._ints([2])])
            )  # (1, kv heads, new rows, dim)
        return self._taken()

    def _grouped(self, given: list[str], cache: list[str], length: str, rows: Rows) -> tuple[str, list[str]]:
        """GroupQueryAttention; returns its result (1, rows, heads * dim) and the cache with the rows in it."""
        causal = self._causal and self._experts == 1
        mask = "" if self._masked is None else "fused_mask"
        inputs = [*given, *cache, f"{length}_last", length, "fused_cos", "fused_sin", "", mask, *[""] * 3, *rows.norms]
        outputs = self._names(3)
        self.caches += [*cache, *outputs[1:]]
        how = {"qk_norm_epsilon": rows.epsilon} if rows.norms else {}
        self._add(
            "GroupQueryAttention",
            inputs if rows.norms else inputs[: 11 if mask else 9],
            outputs,
            domain=MICROSOFT,
            num_heads=self._heads.queries,
            kv_num_heads=self._heads.kv,
            do_rotary=1,
            causal=int(causal),
            **how,
        )
        return outputs[0], outputs[1:]

    def _und_queries(self, rows: Rows, cache: list[str], attended: str) -> None:
        """The und queries over the whole cache, those of a key-value head as rows of one head."""
        heads = self._heads
        group, none = heads.queries // heads.kv, self._ints([0])
        q = rows.q
        if rows.norms:
            apart = self._node("Reshape", [q, self._ints([-1, heads.queries, heads.dim])])
            normed = self._node("RMSNormalization", [apart, rows.norms[0]], epsilon=rows.epsilon, axis=-1)
            q = self._node("Reshape", [normed, self._ints([-1, heads.queries * heads.dim])])
        q = self._node("Unsqueeze", [q, none])
        q = self._node("RotaryEmbedding", [q, "fused_cos_und", "fused_sin_und"], num_heads=heads.queries)
        q = self._node("Reshape", [q, self._ints([-1, heads.kv, group, heads.dim])])
        q = self._node("Transpose", [q], perm=[0, 2, 1, 3])
        q = self._node("Reshape", [q, self._ints([1, -1, heads.kv * heads.dim])])
        out = self._node("MultiHeadAttention", [q, *cache], domain=MICROSOFT, num_heads=heads.kv)
        out = self._node("Reshape", [out, self._ints([-1, group, heads.kv, heads.dim])])
        out = self._node("Transpose", [out], perm=[0, 2, 1, 3])
        self._node("Reshape", [out, self._ints([-1, heads.queries * heads.dim])], output=attended)

    def epilogue(self) -> list[Any]:
        whole = self._node("Concat", self._new, axis=0)
        self._node("Transpose", [whole], output=NEW_KV, perm=[0, 2, 1, 3])
        return self._taken()

    def _node(self, kind: str, inputs: list[str], output: str = "", domain: str = "", **attributes: Any) -> str:
        name = output or self._names(1)[0]
        self._add(kind, inputs, [name], domain, **attributes)
        return name

    def _add(self, kind: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any) -> None:
        from onnx import helper

        self._made.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))

    def _ints(self, values: list) -> str:
        return self._constant(np.array(values, np.int64))

    def _floats(self, value: float) -> str:
        return self._constant(np.array(value, np.float32))

    def _constant(self, array: np.ndarray) -> str:
        from onnx import helper, numpy_helper

        name = self._names(1)[0]
        self._made.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        return name

    def _names(self, count: int) -> list[str]:
        self._count += count
        return [f"fused_{self._count - i}" for i in range(count)]

    def _taken(self) -> list[Any]:
        made, self._made = self._made, []
        return made
