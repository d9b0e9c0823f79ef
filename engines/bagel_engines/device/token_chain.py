"""The row of a text's next token, found on the device that computed the logits of the last one.

Of the largest logit's place the device makes the row of a table there (graphs/row_of_*.onnx), so the next call can be
put into its stream before the host has read the token: the host reads what it has begun to bring down, and no wait
lies between two tokens' calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bagel_engines.device.arrays import Landing
from bagel_engines.device.largest import FOUND, Largest, Places, places
from bagel_engines.device.linear_sums import GRAPHS
from bagel_engines.protocol import Engine, Held

ROW_GRAPHS = {dtype: GRAPHS / f"row_of_{dtype}.onnx" for dtype in ("float32", "float16", "bfloat16")}
TABLE, ROW = "table", "row"  # beside FOUND, its inputs and its output


@runtime_checkable
class ReadsBehind(Protocol):
    """An engine whose results can be brought down while it goes on."""

    def hold_where_roomy(self, array: np.ndarray) -> Held | None:
        """`Engine.hold`, where the device has many times as much memory free; else None."""
        ...

    def landing(self, size: int) -> Landing: ...


@dataclass(frozen=True)
class Begun:
    """A token that the device knows. row: the table's at its place, float32 (1, width)."""

    row: Held
    _landing: Landing

    def places(self) -> Places:
        """Waits for the token, and not for what was asked of the device after it. To be asked before the next but one
        is begun."""
        return places(self._landing.read().view(np.float32).reshape(1, 2))


class TokenChain:
    def __init__(self, engine: Engine, table: Held, landings: tuple[Landing, Landing], row_graph: Path):
        self._table, self._landings = table, landings
        self._largest, self._row = Largest(engine), engine.load(row_graph)

    @classmethod
    def on(cls, engine: Engine, table: np.ndarray, dtype: str) -> TokenChain | None:
        """None where the engine cannot read behind, or has too little memory for the table (places, width); dtype: of
        number_formats.KEPT_AS."""
        if not isinstance(engine, ReadsBehind) or (held := engine.hold_where_roomy(table)) is None:
            return None
        return cls(engine, held, (engine.landing(8), engine.landing(8)), ROW_GRAPHS[dtype])

    def begin(self, logits: Held) -> Begun:
        """logits: float32 (1, places)."""
        found: Any = self._largest.found(logits)
        self._landings = self._landings[::-1]
        self._landings[0].begin(found.address)
        row = self._row.run({FOUND: found, TABLE: self._table}, (ROW,), (ROW,))[ROW]
        return Begun(row, self._landings[0])
