"""The settings that an artefact brings along."""

from __future__ import annotations

from bagel_rt.artefact.manifest import MANIFEST, Manifest
from bagel_rt.errors import ArtefactError
from bagel_rt.options.own_settings import Own, own_settings


def settings_in(manifest: Manifest) -> Own:
    """What its calls begin with where they name no preset; empty where BAGEL's own hold. Raises ArtefactError."""
    return own_settings(manifest.raw.get("settings", {}), f"{manifest.folder / MANIFEST}, settings", ArtefactError)
