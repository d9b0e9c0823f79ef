"""Whether an artefact is of the precision a command was asked for, and what to run where it is not."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.util import find_spec

from bagel_rt.artefact.folders import default_export_folder
from bagel_rt.artefact.manifest import Manifest
from bagel_rt.artefact.precision import SHORT, meaning, meaning_of
from bagel_rt.errors import InputError


def check_precision(manifest: Manifest, name: str, arithmetic: str | None, command: Sequence[str]) -> None:
    """Raise InputError for an artefact of another precision: it was settled by the export, no engine can change it.

    command: the words of the command to run on the right artefact, but for --model, --precision and --arithmetic.
    """
    asked, seen = meaning(name, arithmetic), meaning_of(manifest)
    if asked.met_by(seen):
        return
    wanted = f"{name}, computing in {SHORT[asked.arithmetic]}" if asked.settled else name
    precision = ["--precision", name, *(["--arithmetic", arithmetic] if arithmetic else [])]
    out = str(default_export_folder("-".join((manifest.name, name, *([arithmetic] if arithmetic else [])))))
    task = [] if manifest.task == "full" else ["--task", manifest.task]
    here = "" if find_spec("torch") else " (where PyTorch is: pip install 'bagel-rt[export]')"
    raise InputError(
        f"{manifest.folder} is of precision {seen.stated}, computing in {SHORT[seen.arithmetic]}; asked for: {wanted}."
        f" Plans are of what the graphs are of, so nothing was built. Export the checkpoint, {manifest.name},"
        f" again{here}, then build:\n"
        f"  bagel-rt export --ckpt CHECKPOINT {shlex.join([*task, *precision, '--out', out])}\n"
        f"  bagel-rt {shlex.join([*command, '--model', out, *precision])}"
    )
