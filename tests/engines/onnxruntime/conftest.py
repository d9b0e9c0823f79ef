"""Artefacts with few bits in 16-bit arithmetic, the forms that are for CUDA."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def half_artefacts(export_once, small_checkpoint, tmp_path_factory):
    """A function: the random checkpoint in a precision and an arithmetic, such as ("fp8", "fp16")."""
    folder, made = tmp_path_factory.mktemp("half"), dict[tuple[str, str], Path]()

    def artefact(precision: str, arithmetic: str) -> Path:
        if (precision, arithmetic) not in made:
            how = {"precision": precision, "arithmetic": arithmetic, "verify": False}
            made[precision, arithmetic] = export_once(f"{precision}-{arithmetic}", small_checkpoint, folder, **how)
        return made[precision, arithmetic]

    return artefact
