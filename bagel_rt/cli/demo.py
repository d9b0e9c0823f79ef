"""`demo`: everything the tool does, on a bare laptop, in a minute."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bagel_rt.cli.export import require_exporter
from bagel_rt.cli.progress import Bars
from bagel_rt.errors import InputError
from bagel_rt.locate import BUNDLED
from bagel_rt.manifest import MANIFEST

PROMPT, CHANGE, QUESTION = "a red circle left of a blue square", "make the background green", "what is in this picture?"


def register(commands) -> None:
    demo = commands.add_parser(
        "demo",
        help="try it: draw, edit and ask with a small model",
        description="Draw, edit and ask with a small model.",
    )
    demo.add_argument("--out", type=Path, default=Path("bagel-demo"), metavar="DIR", help="default: bagel-demo")
    demo.add_argument("--backend", default="auto", help="auto, onnxruntime or openvino (default: auto)")
    demo.set_defaults(run=run_demo)


def run_demo(args: argparse.Namespace) -> None:
    from bagel_rt.api import load

    if not args.out.absolute().parent.is_dir():
        raise InputError(f"{args.out.absolute().parent}: no such folder; make it first")
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"{args.out}: exists and is not a folder; choose another --out")
    args.out.mkdir(exist_ok=True)
    model = _model(args.out)
    with load(model, args.backend) as bagel, Bars() as bars:
        print(f"bagel-rt: {bagel.manifest.name} on {bagel.engine}", file=sys.stderr)
        drawn = bagel.generate(PROMPT, seed=1, on_progress=bars)
        drawn.save(args.out / "drawn.png")
        edited = bagel.edit(drawn.image, CHANGE, seed=1, on_progress=bars)
        edited.save(args.out / "edited.png")
        answer = bagel.ask(QUESTION, drawn.image, max_tokens=24, on_progress=bars)
    print(f"drew    {args.out / 'drawn.png'}   from {PROMPT!r}")
    print(f"edited  {args.out / 'edited.png'}  with {CHANGE!r}")
    print(f"asked   {QUESTION!r}: {answer.text!r}")
    print(f"again:  bagel-rt generate --model {model} --prompt {PROMPT!r} --seed 1 --out again.png")


def _model(folder: Path) -> Path:
    """The bundled model, or, as long as there is none, a random one exported into the demo's folder."""
    if (BUNDLED / MANIFEST).is_file():
        return BUNDLED
    require_exporter()
    from bagel_export.artefact import export
    from bagel_export.synthetic import write_checkpoint

    print("bagel-rt: no trained small model is bundled yet; a random one is made: it draws patterns", file=sys.stderr)
    checkpoint, model = folder / "random-bagel", folder / "model"
    write_checkpoint(checkpoint)
    with Bars(bytes_in=("weights", "hashing")) as bars:
        for event in export(checkpoint, model, overwrite=True):
            bars(event)
    return model
