"""What is looked at before a model is opened: its graphs always, every byte and a signature where that is asked for."""

from __future__ import annotations

from pathlib import Path

from bagel_rt.artefact.manifest import Manifest
from bagel_rt.files.typed_paths import typed_path


def check_trust(manifest: Manifest, verify: bool = False, key: str | Path | None = None) -> None:
    """Raise ArtefactError for an artefact that must not be opened. key: a public key's file; it implies verify."""
    if key is not None:
        from bagel_rt.artefact.signatures import check_signature

        check_signature(manifest, typed_path(key))
    manifest.check_graphs()
    if verify or key is not None:
        from bagel_rt.artefact.hashes import check_hashes

        for _ in check_hashes(manifest):
            pass
