"""Every byte of an artefact against the hashes in its manifest."""

from __future__ import annotations

from collections.abc import Iterator

from bagel_rt.artefact.manifest import MANIFEST, Manifest, sha256
from bagel_rt.errors import ArtefactError


def check_hashes(manifest: Manifest) -> Iterator[tuple[str, int, int]]:
    """Read all files, yielding (name, bytes read, bytes in all) on the way.

    Raises ArtefactError for the first file that is not as stored, and before that for one without a stored hash.
    """
    for name, stated in manifest.files.items():
        if not isinstance(stated.get("sha256"), str):
            raise ArtefactError(
                f"{manifest.folder / MANIFEST}: key 'files.{name}.sha256' is missing: this artefact was exported"
                " without hashes, and nothing can be compared; export the model again"
            )
    for name, stated in manifest.files.items():
        for part in sha256(manifest.folder / name):
            if isinstance(part, int):
                yield name, part, stated["size"]
            elif part != stated["sha256"]:
                raise ArtefactError(
                    f"{manifest.folder / name}: its sha256 is not the manifest's: the file is damaged or changed;"
                    " export the model again"
                )
