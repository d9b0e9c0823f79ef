"""`doctor`: what this machine can run."""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import asdict
from typing import Any

from bagel_rt.version import __version__


def register(commands) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="say which engines work here",
        description="List packages, driver and CUDA, and which engines work here; for the others, what to install.",
    )
    doctor.add_argument("--json", action="store_true", help="the same as JSON")
    doctor.set_defaults(run=run_doctor)


def run_doctor(args: argparse.Namespace) -> int:
    from bagel_engines import diagnosis
    from bagel_rt.estimate.machine import cpu

    findings = diagnosis.backends()
    report = {
        "bagel-rt": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "cpu": " ".join(filter(None, cpu())),
        "packages": diagnosis.packages(),
        "cuda": diagnosis.cuda_state(),
        "backends": [asdict(finding) for finding in findings],
    }
    print(json.dumps(report, indent=1)) if args.json else _print(report)
    return 0 if any(finding.works for finding in findings) else 1


def _print(report: dict[str, Any]) -> None:
    print(f"bagel-rt {report['bagel-rt']}, Python {report['python']}, {report['machine']}")
    print(f"cpu       {report['cpu'] or 'not told by this system'}")
    print("packages  " + ", ".join(f"{name} {version}" for name, version in report["packages"].items()))
    for key, value in report["cuda"].items():
        print(f"cuda      {key}: {', '.join(value) or 'none' if isinstance(value, list) else value}")
    for found in report["backends"]:
        print(f"{'works' if found['works'] else '-':9} {found['backend']} on {found['device']}: {found['detail']}")
        if found["arithmetics"]:
            print(f"{'':9} takes --arithmetic {'; '.join(found['arithmetics'])}")
