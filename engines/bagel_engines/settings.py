"""How an engine is to work, beside its name and device. select.open_engine refuses what an engine cannot do of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bagel_engines.onnxruntime.packed_weights import PackedStore
    from bagel_engines.tensorrt.engine import Plans


@dataclass(frozen=True)
class Settings:
    """Defaults are an engine's own way with a float32 artefact."""

    threads: int | None = None
    arithmetic: str | None = None  # an explicit request; None follows `stated`
    stated: str = "float32"  # what the graphs compute in: "float32", "bfloat16", "float16"
    weights: int = 0  # bytes of the artefact's weights; a device with less free memory is refused
    plans: Plans | None = None  # what tensorrt builds from, and where it keeps what it built
    cuda_graphs: bool = False  # runs that callers mark as repeated are captured and played (repeats.py)
    low_memory: bool = False  # on a CPU, a call's working memory is given back after it
    packed: PackedStore | None = None  # where onnxruntime on the CPU keeps packed weights
