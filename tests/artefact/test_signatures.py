"""Every byte compared, and signatures: what was changed, by damage or on purpose, is not opened where that is asked."""

from __future__ import annotations

import base64
import json
import stat
import sys

import pytest
from calls import run
from nano_copy import nano_copy, restated

import bagel_rt
from bagel_rt.artefact import signatures
from bagel_rt.artefact.hashes import check_hashes
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.errors import ArtefactError, InputError


@pytest.fixture
def folder(tmp_path):
    """Weights of its own: they are changed in place."""
    made = nano_copy(tmp_path / "model")
    weights = made / "weights.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(data)
    return made


@pytest.fixture
def keys(tmp_path):
    private, public = tmp_path / "own.pem", tmp_path / "own.pub.pem"
    signatures.new_keys(private, public)
    return private, public


@pytest.fixture
def signed(folder, keys):
    signatures.sign(read_manifest(folder), keys[0])
    return folder


def flip(path, place: int) -> None:
    """Change one bit of a file, whose size stays."""
    with path.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("name, place", [("weights.safetensors", 14985431), ("vit.onnx", 60), ("tokenizer.json", 9)])
def test_one_changed_bit_in_any_file_is_found_when_asked_for(folder, name, place):
    list(check_hashes(read_manifest(folder)))
    flip(folder / name, place)
    with pytest.raises(
        ArtefactError, match=rf"{name}: its sha256 is not the manifest's: the file is damaged or changed"
    ):
        list(check_hashes(read_manifest(folder)))


def test_loading_compares_every_byte_only_when_asked(folder, monkeypatch):
    flip(folder / "weights.safetensors", 14985431)
    bagel_rt.load(folder).close()
    monkeypatch.setattr("bagel_rt.api.open_engine", lambda *_: pytest.fail("an engine was opened"))
    with pytest.raises(ArtefactError, match=r"weights\.safetensors: its sha256 is not the manifest's"):
        bagel_rt.load(folder, verify=True)


def test_every_byte_of_every_listed_file_is_read(folder):
    manifest, read = read_manifest(folder), {}
    for name, done, total in check_hashes(manifest):
        read[name] = (done, total)
    assert read == {name: (entry["size"], entry["size"]) for name, entry in manifest.files.items()}


def test_an_artefact_without_hashes_says_so(folder):
    restated(folder, lambda stated: stated["files"]["vit.onnx"].pop("sha256"))
    with pytest.raises(ArtefactError, match=r"key 'files\.vit\.onnx\.sha256' is missing.*exported without hashes"):
        bagel_rt.load(folder, verify=True)
    bagel_rt.load(folder).close()


def test_a_signed_artefact_is_loaded_with_its_key(signed, keys):
    with bagel_rt.load(signed, key=keys[1]) as bagel:
        assert bagel.manifest.name == "bagel-nano"
    with bagel_rt.load(signed, key=str(keys[1])):
        pass


def test_a_signature_reaches_every_byte(signed, keys):
    flip(signed / "weights.safetensors", 14985431)
    with pytest.raises(ArtefactError, match=r"weights\.safetensors: its sha256 is not"):
        bagel_rt.load(signed, key=keys[1])


def test_a_manifest_that_was_changed_to_fit_changed_files_is_refused(signed, keys):
    """Whoever changes a file can change its hash, too, but cannot sign."""
    import hashlib

    flip(signed / "weights.safetensors", 14985431)
    digest = hashlib.sha256((signed / "weights.safetensors").read_bytes()).hexdigest()
    restated(signed, lambda stated: stated["files"]["weights.safetensors"].update(sha256=digest))
    bagel_rt.load(signed, verify=True).close()
    with pytest.raises(ArtefactError, match=r"bagel_rt\.json: not what bagel_rt\.sig signs.*do not use it"):
        bagel_rt.load(signed, key=keys[1])


def test_an_artefact_without_a_signature_is_refused_where_one_is_asked_for(folder, keys):
    with pytest.raises(ArtefactError, match=r"bagel_rt\.sig: missing: this artefact is not signed"):
        bagel_rt.load(folder, key=keys[1])


def test_anothers_signature_is_refused_even_under_this_keys_name(signed, keys, tmp_path):
    other = tmp_path / "other.pem", tmp_path / "other.pub.pem"
    signatures.new_keys(*other)
    with pytest.raises(
        ArtefactError, match=r"bagel_rt\.sig: made with the key '[0-9a-f]{16}', and .*other\.pub\.pem is"
    ):
        bagel_rt.load(signed, key=other[1])
    stated = json.loads((signed / "bagel_rt.sig").read_text())
    stated["key"] = signatures.name_of(signatures._public(other[1]))
    (signed / "bagel_rt.sig").write_text(json.dumps(stated))
    with pytest.raises(ArtefactError, match=r"not what bagel_rt\.sig signs"):
        bagel_rt.load(signed, key=other[1])


def test_a_signature_of_another_artefact_is_refused(signed, keys):
    restated(signed, lambda stated: stated.update(source="another"))
    with pytest.raises(ArtefactError, match="the signature is of another artefact"):
        bagel_rt.load(signed, key=keys[1])


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "not readable as JSON"),
        ("[]", "not a signature: it must be an object"),
        ('{"format": "2"}', r"key 'format' is '2', this version reads 'bagel-rt signature 1'"),
        ('{"format": "bagel-rt signature 1", "key": 3}', "key 'key' is missing"),
        ('{"format": "bagel-rt signature 1", "key": "a"}', "key 'signature' is missing"),
        ('{"format": "bagel-rt signature 1", "key": "a", "signature": "?"}', "not a signature: key 'signature'"),
        ("x" * 70_000, "not a signature: 70000 bytes"),
    ],
)
def test_what_is_no_signature_is_refused_by_name(signed, keys, text, words):
    (signed / "bagel_rt.sig").write_text(text)
    with pytest.raises(ArtefactError, match=words) as error:
        bagel_rt.load(signed, key=keys[1])
    assert "bagel_rt.sig" in str(error.value)


def test_a_signature_of_any_length_is_refused_without_a_traceback(signed, keys):
    stated = json.loads((signed / "bagel_rt.sig").read_text())
    for length in (0, 63, 65):
        stated["signature"] = base64.b64encode(b"x" * length).decode()
        (signed / "bagel_rt.sig").write_text(json.dumps(stated))
        with pytest.raises(ArtefactError, match=r"not what bagel_rt\.sig signs"):
            bagel_rt.load(signed, key=keys[1])


def test_a_file_that_is_no_key_is_refused_by_name(signed, keys, tmp_path):
    (tmp_path / "empty").write_text("")
    (tmp_path / "large").write_bytes(b"x" * 70_000)
    for name, words in [
        ("own.pem", "not a public Ed25519 key"),
        ("empty", "not a public Ed25519 key"),
        ("none", "no such key file"),
        ("model", "a folder"),
        ("large", "70000 bytes, which is no key"),
    ]:
        with pytest.raises(InputError, match=words):
            bagel_rt.load(signed, key=tmp_path / name)
    with pytest.raises(InputError, match=r"not a private Ed25519 key without a password"):
        signatures.sign(read_manifest(signed), keys[1])
    with pytest.raises(InputError, match=r"key must be a str or a pathlib\.Path"):
        bagel_rt.load(signed, key=3)


def test_a_private_key_is_the_owners_alone_and_never_written_over(tmp_path, keys):
    if sys.platform != "win32":
        assert stat.S_IMODE(keys[0].stat().st_mode) == 0o600
    before = keys[0].read_bytes()
    with pytest.raises(InputError, match=r"own\.pem: is there already"):
        signatures.new_keys(*keys)
    with pytest.raises(InputError, match="cannot be written"):
        signatures.new_keys(tmp_path / "no" / "a.pem", tmp_path / "no" / "a.pub.pem")
    assert keys[0].read_bytes() == before


def test_the_signature_can_be_checked_without_bagel_rt(signed, keys):
    """By its stated format: docs/security.md."""
    import hashlib

    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    digest = hashlib.sha256((signed / "bagel_rt.json").read_bytes()).hexdigest()
    stated = json.loads((signed / "bagel_rt.sig").read_text())
    message = f"bagel-rt signature 1\nbagel_rt.json sha256 {digest}\n".encode()
    load_pem_public_key(keys[1].read_bytes()).verify(base64.b64decode(stated["signature"]), message)


def test_without_the_package_it_is_said_what_to_install(signed, keys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ed25519", None)
    with pytest.raises(InputError, match=r"pip install 'bagel-rt\[sign\]'"):
        bagel_rt.load(signed, key=keys[1])


def test_the_commands_make_keys_sign_and_refuse(capsys, folder, tmp_path):
    pair = [tmp_path / "k.pem", tmp_path / "k.pub.pem"]
    assert run(capsys, "sign", "--new-key", tmp_path / "k")[0] == 0
    assert all(key.is_file() for key in pair)
    code, out, _ = run(capsys, "sign", "--model", folder, "--key", pair[0])
    assert (code, out) == (0, f"{folder}/bagel_rt.sig: signature of bagel-nano {read_manifest(folder).fingerprint}\n")
    code, out, _ = run(capsys, "verify", "--model", folder, "--hash", "--key", pair[1])
    assert code == 0
    assert f"{folder}: signed with the key " in out
    assert f"{folder}: 11 files as stored" in out
    flip(folder / "weights.safetensors", 14985431)
    code, _, err = run(capsys, "verify", "--model", folder, "--hash")
    assert (code, "its sha256 is not the manifest's" in err) == (2, True)
    code, _, err = run(capsys, "ask", "--prompt", "what?", "--model", folder, "--key", pair[1])
    assert (code, "its sha256 is not the manifest's" in err) == (2, True)
    (folder / "bagel_rt.sig").unlink()
    code, _, err = run(capsys, "sign", "--model", folder, "--key", pair[0])
    assert (code, "its sha256 is not the manifest's" in err) == (2, True)  # what is damaged is not signed
    assert not (folder / "bagel_rt.sig").exists()


def test_comparing_files_alone_goes_with_nothing_else(capsys, folder):
    code, _, err = run(capsys, "verify", "--model", folder, "--hash", "--ckpt", "x")
    assert (code, "--hash compares files alone" in err) == (2, True)
