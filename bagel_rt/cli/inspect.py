"""`info` and `verify`: what an artefact or a picture says about itself, and whether it is true."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bagel_rt.cli.arguments import add_model_arguments, open_model
from bagel_rt.cli.progress import Bars
from bagel_rt.errors import ArtefactError
from bagel_rt.locate import find_model
from bagel_rt.manifest import Manifest, read_manifest


def register(commands) -> None:
    info = commands.add_parser(
        "info",
        help="describe an artefact or a picture",
        description="Describe an artefact folder or a picture's record.",
    )
    info.add_argument("path", type=Path, nargs="?", help="artefact folder or PNG (default: the model commands use)")
    info.add_argument("--json", action="store_true", help="everything, as JSON")
    info.set_defaults(run=run_info)
    verify = commands.add_parser(
        "verify",
        help="check an artefact's files and graphs",
        description="Compare every file with its stored hash and open every graph on the engine.",
    )
    add_model_arguments(verify)
    verify.set_defaults(run=run_verify)


def run_info(args: argparse.Namespace) -> None:
    path = args.path or find_model(None).folder
    if path.is_file():
        from bagel_rt.results import read_metadata

        record = read_metadata(path)
        _print_json(record) if args.json else _print_record(record)
    else:
        manifest = read_manifest(path)
        _print_json(dict(manifest.raw)) if args.json else _print_artefact(manifest)


def run_verify(args: argparse.Namespace) -> None:
    with open_model(args) as bagel:
        _check_hashes(bagel.manifest)
        for name in bagel.manifest.graphs:
            bagel.graphs.open(name)
    count = len(bagel.manifest.files)
    print(f"{bagel.manifest.folder}: {count} files as stored, {len(bagel.manifest.graphs)} graphs open")


def _check_hashes(manifest: Manifest) -> None:
    from bagel_rt.api import Progress
    from bagel_rt.manifest import sha256

    with Bars(bytes_in=tuple(manifest.files)) as bars:
        for name, stated in manifest.files.items():
            for part in sha256(manifest.folder / name):
                if isinstance(part, int):
                    bars(Progress(name, part, stated["size"]))
                elif part != stated["sha256"]:
                    raise ArtefactError(
                        f"{manifest.folder / name}: its sha256 is not the manifest's: the file is damaged; export again"
                    )


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _print_record(record: dict[str, Any]) -> None:
    for key in ("prompt", "text", "seed", "model", "engine", "bagel_rt"):
        print(f"{key:8} {record.get(key)}")
    for key, value in record.get("options", {}).items():
        print(f"  {key:18} {value}")


def _print_artefact(manifest: Manifest) -> None:
    m, size = manifest.model, sum(entry["size"] for entry in manifest.files.values())
    print(f"{manifest.name}: task {manifest.task}, {manifest.precision}, {size / 2**20:.1f} MiB in {manifest.folder}")
    print(
        f"  decoder {m.layer_module}: {m.num_hidden_layers} layers of {m.hidden_size}, {m.num_attention_heads} heads,"
        f" {m.num_key_value_heads} KV heads, {m.vocab_size} tokens, {m.max_position_embeddings} positions"
    )
    if manifest.task == "full":
        print(
            f"  pictures up to {m.latent_stride * m.max_latent_size} pixels a side,"
            f" default {manifest.vae_transform.max_size}"
        )
    print(f"  {'graph':12} {'weights':>12}  parity with the reference")
    for name, entry in manifest.graphs.items():
        print(f"  {name:12} {entry.get('weight_bytes', 0) / 2**20:8.1f} MiB  {_parity(entry.get('parity', {}))}")
    if unused := manifest.raw.get("unused_tensors"):
        print(f"  {len(unused)} tensors of the checkpoint are not used, the first is {unused[0]}")
    print("  exported with " + ", ".join(f"{k} {v}" for k, v in manifest.raw.get("exporter", {}).items()))


def _parity(entry: dict[str, Any]) -> str:
    if "relative_l2" in entry:
        return f"{entry['status']}: relative L2 {entry['relative_l2']:.1e} on {entry.get('engine')}"
    return f"{entry.get('status', 'not stated')}: {entry.get('reason', '')}"
