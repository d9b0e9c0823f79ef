"""`info`: what an artefact or a picture says about itself."""

from __future__ import annotations

import argparse
from typing import Any

from bagel_rt.artefact.folders import Found, find_model, model_folder
from bagel_rt.artefact.manifest import Manifest, read_manifest
from bagel_rt.cli.terminal import print_json
from bagel_rt.inputs.brought_settings import settings_in
from bagel_rt.options.checks import shown


def register(commands) -> None:
    info = commands.add_parser(
        "info",
        help="describe an artefact or a picture",
        description="Describe an artefact folder or a picture's record.",
    )
    info.add_argument("path", nargs="?", help="artefact folder or picture (default: the model that commands use)")
    info.add_argument("--json", action="store_true", help="everything, as JSON")
    info.set_defaults(run=run_info)


def run_info(args: argparse.Namespace) -> None:
    if args.path is None:
        found = find_model(None)
        _tell(read_manifest(found.folder), found, args.json)
        return
    path = model_folder(args.path)
    if path.is_file():
        from bagel_rt.results import read_metadata

        record = read_metadata(path)
        print_json(record) if args.json else _print_record(record)
    else:
        _tell(read_manifest(path), None, args.json)


def _tell(manifest: Manifest, found: Found | None, as_json: bool) -> None:
    """found: how the model was chosen, where none was named."""
    plans = _plans(manifest)
    if as_json:
        used = {"used": {"folder": str(found.folder), "why": found.why}} if found else {}
        print_json({**manifest.raw, "plans": plans, **used})
        return
    if found:
        print(f"commands without --model use {found.folder}: {found.why}; 'bagel-rt use DIR' chooses another")
    _print_artefact(manifest, plans)


def _plans(manifest: Manifest) -> list[dict[str, Any]]:
    """The records of this machine's TensorRT plans of an artefact."""
    from bagel_engines.tensorrt.plan_store import records
    from bagel_rt.tensorrt.stores import plan_folder

    return list(records(plan_folder(manifest)))


def _print_record(record: dict[str, Any]) -> None:
    for key in ("prompt", "text", "seed", "model", "engine", "bagel_rt"):
        print(f"{key:8} {record.get(key)}")
    for key, value in record.get("options", {}).items():
        print(f"  {key:18} {value}")


def _print_artefact(manifest: Manifest, plans: list[dict[str, Any]]) -> None:
    begins = settings_in(manifest)  # refuses wrong ones, before a line is printed
    m, size = manifest.model, sum(entry["size"] for entry in manifest.files.values())
    precision = manifest.precision
    if manifest.arithmetic != precision:
        precision += f" computing in {manifest.arithmetic}"
    print(f"{manifest.name}: task {manifest.task}, {precision}, {size / 2**20:.1f} MiB in {manifest.folder}")
    print(
        f"  decoder {m.layer_module}: {m.num_hidden_layers} layers of {m.hidden_size}, {m.num_attention_heads} heads,"
        f" {m.num_key_value_heads} KV heads, {m.vocab_size} tokens, {m.max_position_embeddings} positions"
    )
    if manifest.task == "full":
        print(
            f"  pictures up to {m.latent_stride * m.max_latent_size} pixels a side,"
            f" default {manifest.vae_transform.max_size}"
        )
    if manifest.system:
        print(f"  system prompt: {shown(manifest.system)}")
    for kind, settings in begins.items():
        print(f"  {kind} begins with {', '.join(f'{name} {shown(value)}' for name, value in settings.items())}")
    if style := manifest.raw.get("style"):
        print(f"  reasons as style {style.get('name')}")
    print(f"  {'graph':12} {'weights':>12}  parity with the reference")
    for name, entry in manifest.graphs.items():
        print(f"  {name:12} {entry.get('weight_bytes', 0) / 2**20:8.1f} MiB  {_parity(entry.get('parity', {}))}")
    if plans:
        print("  TensorRT plans")
    for plan in plans:
        _print_plan(plan)
    if unused := manifest.raw.get("unused_tensors"):
        print(f"  {len(unused)} tensors of the checkpoint are not used, the first is {unused[0]}")
    print("  exported with " + ", ".join(f"{k} {v}" for k, v in manifest.raw.get("exporter", {}).items()))


def _print_plan(record: dict[str, Any]) -> None:
    from bagel_engines.tensorrt.plan_store import standing

    key, size = record["key"], record["bytes"] / 2**20
    with_what = f"built with {key.get('flavour')} {key.get('version')}, {standing(record)}"
    print(f"  {key['graph']:12} {size:8.1f} MiB  for {key['target']['gpu']}: {with_what}")


def _parity(entry: dict[str, Any]) -> str:
    if "relative_l2" in entry:
        return f"{entry['status']}: relative L2 {entry['relative_l2']:.1e} on {entry.get('engine')}"
    return f"{entry.get('status', 'not stated')}: {entry.get('reason', '')}"
