"""A signature beside an artefact: who vouches for it, in a file of its own (Ed25519, RFC 8032, by `cryptography`).

Signed is the text of `_message`: the format's name and the sha256 of the manifest's bytes. The manifest has the hash of
every other file, so a signature that is right says something about the files only after they were compared with these:
`check_hashes`. Keys are PEM files (PKCS 8 the private, SubjectPublicKeyInfo the public one), as openssl makes them:
openssl genpkey -algorithm ed25519; openssl pkey -pubout.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bagel_engines import disk
from bagel_rt.artefact.bounds import mapping
from bagel_rt.artefact.manifest import MANIFEST, Manifest
from bagel_rt.artefact.stamps import stamp
from bagel_rt.errors import ArtefactError, InputError
from bagel_rt.files.output_files import write_bytes
from bagel_rt.files.text_files import read_bytes, read_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE = "bagel_rt.sig"
FORMAT = "bagel-rt signature 1"
MOST_BYTES = 1 << 16  # of a signature file, and of a key's


def new_keys(private: Path, public: Path) -> None:
    """Make a key pair. Nothing is written over; only the owner can read the private key. Raises InputError."""
    key = _library().Ed25519PrivateKey.generate()
    from cryptography.hazmat.primitives import serialization as form

    secret = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    open_part = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    for path in (private, public):
        if os.path.lexists(path):
            raise InputError(f"{path}: is there already, and a key is never written over; choose another name")
    _write_new(private, secret, 0o600)
    _write_new(public, open_part, 0o644)


def sign(manifest: Manifest, private: Path) -> Path:
    """Sign an artefact as it was read; returns the signature's file, in the artefact's folder.

    The caller has compared the files with their hashes. Raises InputError for the key.
    """
    key = _private(private)
    stated = {
        "format": FORMAT,
        "manifest_sha256": manifest.digest,
        "key": name_of(key.public_key()),
        "signature": base64.b64encode(key.sign(_message(manifest))).decode(),
    }
    path = manifest.folder / SIGNATURE
    write_bytes(path, (json.dumps(stated, indent=1) + "\n").encode())
    return path


def check_signature(manifest: Manifest, public: Path) -> str:
    """Refuse an artefact whose manifest was not signed with the private key of this public one; returns its name.

    Raises ArtefactError for a signature that is missing, malformed, of another key or of another manifest, and
    InputError for the key.
    """
    key, path = _public(public), manifest.folder / SIGNATURE
    if not os.path.lexists(path):
        raise ArtefactError(f"{path}: missing: this artefact is not signed, and a signature of {public} is asked for")
    try:
        stated, signature = _read(path)
    except ValueError as error:
        raise ArtefactError(f"{path}: not a signature: {error}; sign the artefact again") from None
    if stated["key"] != name_of(key):
        raise ArtefactError(
            f"{path}: made with the key {stated['key']!r:.80}, and {public} is {name_of(key)}; use the key of whoever"
            " signed it"
        )
    if not _right(key, signature, manifest):
        raise ArtefactError(
            f"{manifest.folder / MANIFEST}: not what {path.name} signs: it was changed since, or the signature is of"
            " another artefact; do not use it"
        )
    return name_of(key)


def name_of(key: Ed25519PublicKey) -> str:
    """A public key's short name: the first 16 digits of the sha256 of its 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _message(manifest: Manifest) -> bytes:
    return f"{FORMAT}\n{MANIFEST} sha256 {manifest.digest}\n".encode()


def _read(path: Path) -> tuple[Mapping[str, Any], bytes]:
    """What a signature's file states, and its 64 bytes. Raises ValueError."""
    if (size := stamp(path).size) > MOST_BYTES:
        raise ValueError(f"{size} bytes")
    stated = mapping("it", read_json(path, ArtefactError))
    if stated.get("format") != FORMAT:
        raise ValueError(f"key 'format' is {stated.get('format')!r:.80}, this version reads {FORMAT!r}")
    for name in ("key", "signature"):
        if not isinstance(stated.get(name), str):
            raise ValueError(f"key {name!r} is missing")
    try:
        return stated, base64.b64decode(stated["signature"], validate=True)
    except binascii.Error as error:
        raise ValueError(f"key 'signature': {error}") from None


def _right(key: Ed25519PublicKey, signature: bytes, manifest: Manifest) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, _message(manifest))
    except InvalidSignature:
        return False
    return True


def _private(path: Path) -> Ed25519PrivateKey:
    kind = _library().Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return _key(path, "private", kind, lambda data: load_pem_private_key(data, None))


def _public(path: Path) -> Ed25519PublicKey:
    kind = _library().Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return _key(path, "public", kind, load_pem_public_key)


def _key(path: Path, which: str, kind: type, load: Any) -> Any:
    """A key from its file, of the kind that is used here. Raises InputError."""
    from cryptography.exceptions import UnsupportedAlgorithm

    data = _key_bytes(path)
    try:
        key = load(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is locked with a password
        key = None
    if not isinstance(key, kind):
        raise InputError(
            f"{path}: not a {which} Ed25519 key without a password, in PEM; make a pair with: bagel-rt sign --new-key"
        )
    return key


def _key_bytes(path: Path) -> bytes:
    try:
        size = stamp(path).size
    except ArtefactError as error:
        raise InputError(f"{path}: no such key file" if not os.path.lexists(path) else str(error)) from None
    if size > MOST_BYTES:
        raise InputError(f"{path}: {size} bytes, which is no key")
    return read_bytes(path)


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise InputError("signatures need the cryptography package; run: pip install 'bagel-rt[sign]'") from None
    return ed25519


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that is not there yet, with these rights from its first moment. Raises InputError."""
    try:
        disk.write_new(path, data, mode)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
