"""What a precision comes to for the tensors of a checkpoint; its names are bagel_rt.artefact.precision's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bagel_export.checkpoint.open import VAE_PREFIX
from bagel_rt.artefact.precision import FLOAT, meaning
from bagel_rt.errors import ExportError, InputError

GEN = "_moe_gen"
LAYERS = "language_model.model.layers."
VIT = ("vit_model.", "connector.")
ROUTERS = (".gate.weight", ".gate_shared.weight")  # of experts in pieces
HEAD = "language_model.lm_head."

ROUNDED_ROWS = ("w8a8", "fp8")  # forms that round what they multiply, and so need to know its range
TOLERANCES = {"float32": 1e-4, "bfloat16": 6e-2, "float16": 1e-2}
# two right engines may round a number between two steps to different sides: 1/254 of its row's largest (8-bit
# integers), or 1/16 of the number itself (8-bit floats)
_STEP_TOLERANCES = {"w8a8": 3e-2, "fp8": 1.5e-1}


@dataclass(frozen=True)
class Precision:
    """`name` is what the manifest says; dtypes by numpy's names and "bfloat16".

    arithmetic: inside the graphs and of the cached keys and values; vae: inside the VAE's two graphs; forms: a key of
    FORMS for each of PARTS. tolerance: largest relative L2 from the reference in float32 with the same numbers rounded;
    measured errors are a tenth of it or less, half or less where rows are rounded.
    """

    name: str
    arithmetic: str
    vae: str
    forms: Mapping[str, str]

    @property
    def tolerance(self) -> float:
        steps = [_STEP_TOLERANCES.get(form, 0.0) for form in self.forms.values()]
        return TOLERANCES[self.arithmetic] + max(steps)

    @property
    def needs_calibration(self) -> bool:
        return any(form in (*ROUNDED_ROWS, "int4") for form in self.forms.values())

    def stored(self, tensor: str) -> str:
        """What a tensor of that name is stored in where it is not quantised."""
        return self.vae if tensor.startswith(VAE_PREFIX) else self.arithmetic

    def form(self, tensor: str) -> str:
        """What FORMS has for a tensor of that name; only weights that are multiplied follow it."""
        part = part_of(tensor)
        return self.forms.get(part, FLOAT) if part else FLOAT


def risk_to_pictures(precision: Precision, task: str) -> str | None:
    """One sentence about 4-bit weights that pictures are drawn with; None where there are none.

    Rounded to 4 bits, the generation expert, or the understanding expert's attention, over whose keys and values
    latents attend (all of it theirs, in decoder forms that share it), lost the pictures of others' quantised BAGELs:
    intel/auto-round issue 1633.
    """
    parts = {"gen": "the generation expert", "und": "the attention that pictures are drawn over"}
    seen = [words for part, words in parts.items() if precision.forms[part] == "int4"]
    if task != "full" or not seen:
        return None
    return (
        f"precision {precision.name!r} keeps {' and '.join(seen)} in 4 bits, where others' users lost their pictures"
        " (auto-round issue 1633): compare some with --precision balanced, which keeps 8 bits, before you rely on it"
    )


def part_of(tensor: str) -> str | None:
    """Which of PARTS a tensor belongs to. The layers that embed and predict latents belong to none: they have few
    weights, and every error in them is seen in the picture.

    In decoder forms where both experts share a tensor, it counts as the understanding expert's.
    """
    if tensor.endswith(ROUTERS):
        return None  # a rounded router picks other pieces
    if tensor.startswith(LAYERS):
        return "gen" if GEN in tensor else "und"
    if tensor.startswith(VIT):
        return "vit"
    if tensor.startswith(HEAD):
        return "head"
    return "vae" if tensor.startswith(VAE_PREFIX) else None


def precision_named(name: str, arithmetic: str | None = None) -> Precision:
    """The precision of that name (see bagel_rt.artefact.precision.meaning). Raises ExportError for an unknown one, or
    parts that do not go together."""
    try:
        found = meaning(name, arithmetic)
    except InputError as error:
        raise ExportError(str(error)) from None
    # a VAE's activations can exceed what float16 holds
    vae = "float32" if found.arithmetic == "float16" else found.arithmetic
    return Precision(found.stated, found.arithmetic, vae, found.forms)
