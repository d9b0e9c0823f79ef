"""The precisions of an artefact: how the weights of each part are stored, and what its graphs compute in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bagel_export.checkpoint import VAE_PREFIX
from bagel_rt.errors import ExportError

PARTS = ("und", "gen", "vit", "head", "vae")
GEN = "_moe_gen"
LAYERS = "language_model.model.layers."
VIT = ("vit_model.", "connector.")
HEAD = "language_model.lm_head."

# how a Linear's weight is stored and used
FORMS = {
    "float": "as the graphs compute",
    "int8": "8 bits in blocks",
    "int4": "4 bits in blocks",
    "w8a8": "8 bits per output, and the rows it multiplies rounded to 8 bits as well",
    "fp8": "8-bit floating point per output, and the rows it multiplies too",
}
ROUNDED_ROWS = ("w8a8", "fp8")  # forms that round what they multiply, and so need to know its range
# the weights beside the two experts are few: they stay at 8 bits where the experts go lower
_INT8_BESIDE = {"vit": "int8", "head": "int8", "vae": "int8"}
_WORDS: dict[str, dict[str, str]] = {
    "fp32": {},
    "bf16": {},
    "fp16": {},
    "int8": {"und": "int8", "gen": "int8", **_INT8_BESIDE},
    "int4": {"und": "int4", "gen": "int4", **_INT8_BESIDE},
    "w8a8": {"und": "w8a8", "gen": "w8a8", **_INT8_BESIDE},
    "fp8": {"und": "fp8", "gen": "fp8"},
}
PROFILES = {"exact": "fp32", "balanced": "int8", "small": "int4"}
ARITHMETICS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
TOLERANCES = {"float32": 1e-4, "bfloat16": 6e-2, "float16": 1e-2}
# a number at the edge between two steps may fall to either side of it: 1/254 of its row's largest, or 1/16 of itself
_STEP_TOLERANCES = {"w8a8": 3e-2, "fp8": 1.5e-1}
ALLOWED = ", ".join([*_WORDS, *PROFILES]) + f"; or PART=FORM,... with parts {', '.join(PARTS)}"


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
        return self.forms.get(part, "float") if part else "float"


def part_of(tensor: str) -> str | None:
    """Which of PARTS a tensor belongs to. The way into and out of the latents is in none: few weights, all felt.

    What a decoder form has once for both experts counts as the understanding expert's.
    """
    if tensor.startswith(LAYERS):
        return "gen" if GEN in tensor else "und"
    if tensor.startswith(VIT):
        return "vit"
    if tensor.startswith(HEAD):
        return "head"
    return "vae" if tensor.startswith(VAE_PREFIX) else None


def precision_named(name: str, arithmetic: str | None = None) -> Precision:
    """From "int8", "small", or "und=int4,gen=w8a8" (what is not named is as in int8).

    arithmetic: a key of ARITHMETICS; None is float32, or what the word itself says. Raises ExportError for what is
    unknown or does not go together.
    """
    word, overrides = _split(PROFILES.get(name, name))
    own = "bf16" if "fp8" in (word, *overrides.values()) else word if word in ARITHMETICS else "fp32"
    chosen = own if arithmetic is None else arithmetic
    if chosen not in ARITHMETICS:
        raise ExportError(f"arithmetic {arithmetic!r} is unknown; allowed: {', '.join(ARITHMETICS)}")
    if word in ARITHMETICS and chosen != word:
        raise ExportError(
            f"precision {name!r} computes in {word}; leave the arithmetic {arithmetic!r} out, or name a quantised"
            " precision beside it"
        )
    computed = ARITHMETICS[chosen]
    forms = {part: "float" for part in PARTS} | _WORDS[word] | overrides
    if "fp8" in forms.values() and computed == "float32":
        raise ExportError(f"precision {name!r} has fp8, which goes with arithmetic bf16 or fp16, not {chosen}")
    stated = ARITHMETICS[word] if name == word and word in ARITHMETICS else name
    # a VAE's activations can exceed what float16 holds
    return Precision(stated, computed, "float32" if computed == "float16" else computed, forms)


def _split(name: str) -> tuple[str, dict[str, str]]:
    """The word for everything, and the parts that differ from it."""
    word, overrides = "int8", {}
    for i, item in enumerate(name.split(",")):
        part, equals, form = item.strip().partition("=")
        if not equals and i == 0 and part in _WORDS:
            word = part
        elif equals and part in PARTS and form in _allowed(part):
            overrides[part] = form
        else:
            seen = f"{item.strip()!r} in precision {name!r}" if name != item else f"precision {name!r}"
            hint = f"; {part} can be {', '.join(_allowed(part))}" if equals and part in PARTS else ""
            raise ExportError(f"{seen} is unknown{hint}; allowed: {ALLOWED}")
    return word, overrides


def _allowed(part: str) -> tuple[str, ...]:
    return ("float", "int8") if part == "vae" else tuple(FORMS)
