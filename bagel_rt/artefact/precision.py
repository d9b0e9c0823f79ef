"""Names of precisions ("int8", "und=int4,gen=w8a8"): how each part's weights are stored, what graphs compute in.

A new precision, or a new form of weights, begins here; export/bagel_export/quantization makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bagel_rt.errors import InputError

if TYPE_CHECKING:
    from bagel_rt.artefact.manifest import Manifest

PARTS = ("und", "gen", "vit", "head", "vae")
FLOAT = "float"  # the form of weights that are not quantised

# forms that a Linear's weight can be stored in
FORMS = {
    FLOAT: "as the graphs compute",
    "int8": "8 bits in blocks",
    "int4": "4 bits in blocks",
    "w8a8": "8 bits per output, and the rows it multiplies rounded to 8 bits as well",
    "fp8": "8-bit floating point per output, and the rows it multiplies too",
}
# nearly all weights are the two experts'; the others stay at 8 bits where the experts get fewer
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
SHORT = {long: short for short, long in ARITHMETICS.items()}
ALLOWED = ", ".join([*_WORDS, *PROFILES]) + f"; or PART=FORM,... with parts {', '.join(PARTS)}"


@dataclass(frozen=True)
class Meaning:
    """What a precision's name means.

    stated: how the manifest spells it. arithmetic: what the graphs compute in. forms: a key of FORMS for each of PARTS.
    settled: whether the name or its user chose the arithmetic; if not, it is the default.
    """

    stated: str
    arithmetic: str
    forms: Mapping[str, str]
    settled: bool

    def met_by(self, seen: Meaning) -> bool:
        """Whether an artefact of precision `seen` is what this name asks for, however either is spelled.

        A name of quantised weights is met by any arithmetic, unless one was chosen.
        """
        open_to_any = not self.settled and set(self.forms.values()) != {FLOAT}
        return dict(self.forms) == dict(seen.forms) and (open_to_any or self.arithmetic == seen.arithmetic)


def spelled_out(arithmetic: str | None) -> str | None:
    """The long name of an arithmetic given by either; anything else as it is."""
    return arithmetic if arithmetic is None else ARITHMETICS.get(arithmetic, arithmetic)


def meaning(name: str, arithmetic: str | None = None) -> Meaning:
    """The meaning of "int8", "small", "bf16" or "bfloat16", or "und=int4,gen=w8a8" (parts not named are as in int8).

    arithmetic: a key or a value of ARITHMETICS; None is float32, or what the word itself says. Raises InputError for
    what is unknown or does not go together.
    """
    word, overrides = _split(PROFILES.get(name, name))
    own = "bf16" if "fp8" in (word, *overrides.values()) else word if word in ARITHMETICS else "fp32"
    chosen = own if arithmetic is None else SHORT.get(arithmetic, arithmetic)
    if chosen not in ARITHMETICS:
        raise InputError(f"arithmetic {arithmetic!r} is unknown; allowed: {', '.join(ARITHMETICS)}")
    if word in ARITHMETICS and chosen != word:
        raise InputError(
            f"precision {name!r} computes in {word}; leave the arithmetic {arithmetic!r} out, or name a quantised"
            " precision beside it"
        )
    forms = dict.fromkeys(PARTS, FLOAT) | _WORDS[word] | overrides
    if "fp8" in forms.values() and chosen == "fp32":
        raise InputError(f"precision {name!r} has fp8, which goes with arithmetic bf16 or fp16, not {chosen}")
    stated = ARITHMETICS[word] if name == word and word in ARITHMETICS else name
    return Meaning(stated, ARITHMETICS[chosen], forms, arithmetic is not None or word in ARITHMETICS)


def meaning_of(manifest: Manifest) -> Meaning:
    """What an artefact is of. One from before forms were recorded was made of a single word."""
    forms = manifest.raw.get("weight_forms") or meaning(manifest.precision).forms
    return Meaning(manifest.precision, manifest.arithmetic, forms, settled=True)


def check_rounding(manifest: Manifest, arithmetic: str | None) -> None:
    """Raise InputError for arithmetic "int8" or "int8-rows" with an artefact that has no int8 or int4 weights."""
    if arithmetic in ("int8", "int8-rows") and not {"int8", "int4"} & set(meaning_of(manifest).forms.values()):
        stored = SHORT.get(manifest.precision, manifest.precision)
        raise InputError(
            f"{manifest.folder}: arithmetic {arithmetic!r} rounds what 8-bit and 4-bit weights multiply, and"
            f" {stored} has none; use bfloat16 (openvino), or export with --precision balanced"
        )


def _split(name: str) -> tuple[str, dict[str, str]]:
    """A name taken apart: the word for all parts, and the forms of the parts that differ from it."""
    word, overrides = "int8", {}
    for i, item in enumerate(name.split(",")):
        part, equals, form = item.strip().partition("=")
        if not equals and i == 0 and SHORT.get(part, part) in _WORDS:
            word = SHORT.get(part, part)
        elif equals and part in PARTS and form in _allowed(part):
            overrides[part] = form
        else:
            seen = f"{item.strip()!r} in precision {name!r}" if name != item else f"precision {name!r}"
            hint = f"; {part} can be {', '.join(_allowed(part))}" if equals and part in PARTS else ""
            raise InputError(f"{seen} is unknown{hint}; allowed: {ALLOWED}")
    return word, overrides


def _allowed(part: str) -> tuple[str, ...]:
    return (FLOAT, "int8") if part == "vae" else tuple(FORMS)
