"""Reads adapters that are switched in a loaded model. What cannot be switched is refused by name: an export with --lora
merges it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from bagel_engines import LowRank, Thin
from bagel_engines.low_rank import linear_weights, stored_names
from bagel_rt.adapters.read import Adapter, Change, Lora, check_fits, read_adapter
from bagel_rt.adapters.switched import INSTEAD, Adapters
from bagel_rt.artefact.contract import ADAPTER_COLUMNS, ADAPTER_SCALES, GEN_STEP, UND_STEP
from bagel_rt.artefact.manifest import Manifest
from bagel_rt.errors import CheckpointError

EMBEDDING = "language_model.model.embed_tokens.weight"  # which no graph reads
ROUNDS_ROWS = ("w8a8", "fp8")  # forms of weights whose rows are rounded, and may be smoothed before
Shapes = Mapping[str, tuple[int, int]]  # weights of the products of a graph: (outputs, inputs)


def load_adapters(manifest: Manifest, paths: Mapping[str, Path]) -> Adapters:
    """Read adapters by the names that calls give them.

    Raises CheckpointError for an adapter that does not fit the model, or that cannot be switched.
    """
    _check_forms(manifest)
    shapes = {
        graph: linear_weights(manifest.graph_file(graph)) for graph in (UND_STEP, GEN_STEP) if manifest.has(graph)
    }
    switched = {name: shape for found in shapes.values() for name, shape in found.items()}
    stored = {EMBEDDING, *(name for graph in manifest.graphs for name in stored_names(manifest.graph_file(graph)))}
    changes = {name: _changes(path, switched, stored) for name, path in paths.items()}
    spans = _spans(changes)
    touched = {weight: shape for weight, shape in switched.items() if any(weight in one for one in changes.values())}
    thin = {weight: _stacked(weight, shape, changes, spans) for weight, shape in touched.items()}
    parts = {graph: {weight: thin[weight] for weight in found if weight in thin} for graph, found in shapes.items()}
    graphs = {graph: LowRank(part, ADAPTER_COLUMNS, ADAPTER_SCALES) for graph, part in parts.items() if part}
    return Adapters(spans, graphs)


def _check_forms(manifest: Manifest) -> None:
    forms = manifest.raw.get("weight_forms", {})
    for part in ("und", "gen"):
        if forms.get(part) in ROUNDS_ROWS:
            raise CheckpointError(
                f"{manifest.folder}: its {part} expert has {forms[part]} weights, whose rows are rounded: adapters"
                f" are not switched beside them; {INSTEAD}, or use --precision exact, balanced or small"
            )


def _changes(path: Path, switched: Shapes, stored: Iterable[str]) -> dict[str, Change]:
    """What an adapter does to each product's weight."""
    adapter = read_adapter(Lora(path), {*switched, *stored})
    _check_switched(adapter, switched)
    found = {}
    for weight, [change] in adapter.updates.items():
        check_fits(change, weight, switched[weight])
        found[weight] = change
    return found


def _check_switched(adapter: Adapter, switched: Shapes) -> None:
    for weight, tensor in adapter.whole.items():
        raise CheckpointError(
            f"{tensor.file}: tensor '{tensor.key}' replaces '{weight}' as a whole, which is not switched in a loaded"
            f" model; {INSTEAD}"
        )
    for weight, [change] in adapter.updates.items():
        key = change.product.left.key
        if change.magnitude is not None:
            raise CheckpointError(
                f"{adapter.file}: tensor '{change.magnitude.key}' is DoRA's, whose lengths are of the merged matrix: it"
                f" is not switched in a loaded model; {INSTEAD}"
            )
        if weight not in switched:
            raise CheckpointError(
                f"{adapter.file}: tensor '{key}' changes '{weight}'; in a loaded model the matrices of the decoder's"
                f" layers are switched, and not this one; {INSTEAD}"
            )


def _spans(changes: Mapping[str, Mapping[str, Change]]) -> dict[str, tuple[int, int]]:
    """Ranks one adapter behind the other; each has as many as the largest of its products."""
    spans, start = {}, 0
    for name, found in changes.items():
        ranks = [change.product.right.shape[0] for change in found.values()]
        spans[name] = (start, start + max(ranks))
        start = spans[name][1]
    return spans


def _stacked(
    weight: str,
    shape: tuple[int, int],
    changes: Mapping[str, Mapping[str, Change]],
    spans: Mapping[str, tuple[int, int]],
) -> Thin:
    """Both thin matrices of all adapters beside a weight, zeros for those that do not change it."""
    total = max(end for _, end in spans.values())
    down, up = np.zeros((total, shape[1]), np.float32), np.zeros((total, shape[0]), np.float32)
    for name, found in changes.items():
        if weight in found:
            product, start = found[weight].product, spans[name][0]
            end = start + product.right.shape[0]
            down[start:end] = product.right.mapped()
            up[start:end] = np.float32(product.scale) * product.left.mapped().T.astype(np.float32)
    return Thin(down, up)
