"""How an engine is to work, beside its name and device. select.open_engine refuses what that engine cannot do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bagel_engines.protocol import OnWeights

if TYPE_CHECKING:
    from bagel_engines.onnxruntime.packed_weights import PackedStore
    from bagel_engines.tensorrt.engine import Plans


@dataclass(frozen=True)
class Settings:
    """Settings of an engine. The defaults compute a float32 artefact in float32, with nothing kept on disk."""

    threads: int | None = None
    arithmetic: str | None = None  # what the caller asks to compute in; None: as `stated`
    stated: str = "float32"  # what the artefact's graphs compute in: "float32", "bfloat16", "float16"
    weights: int = 0  # bytes of the artefact's weights; a device with less free memory is refused
    plans: Plans | None = None  # for tensorrt: what plans are built for, and where they are kept
    # record runs inside `repeating` as CUDA graphs (device/recorded_runs.py); None: with onnxruntime, not with tensorrt
    cuda_graphs: bool | None = None
    exact_vae: bool = False  # on CUDA, the VAE is computed in float32 where the rest has 16 bits
    on_weights: OnWeights | None = None  # told of weights on their way to a device
    low_memory: bool = False  # on a CPU, a call's working memory is given back after it
    packed: PackedStore | None = None  # where onnxruntime on the CPU keeps packed weights; None: nowhere
