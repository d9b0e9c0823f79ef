"""Running a command and watching its memory, for benchmarks."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

SAMPLED_EVERY = 0.05  # seconds


def memory(process: int) -> tuple[float, float]:
    """GiB of a process: anonymous + shared now, and its VmHWM."""
    text = Path(f"/proc/{process}/status").read_text()
    found = {key: int(value) / 2**20 for key, value in re.findall(r"(\w+):\s+(\d+) kB", text)}
    return found.get("RssAnon", 0.0) + found.get("RssShmem", 0.0), found.get("VmHWM", 0.0)


def watched(command: list[str]) -> dict[str, Any]:
    """Run a command; its seconds, its peaks of memory, and its last line. Raises RuntimeError when it fails."""
    start, own, all_of_it = time.perf_counter(), 0.0, 0.0
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        while process.poll() is None:
            try:
                now, peak = memory(process.pid)
            except OSError:
                break
            own, all_of_it = max(own, now), max(all_of_it, peak)
            time.sleep(SAMPLED_EVERY)
        printed = process.communicate()[0]
        errors.seek(0)
        if process.returncode:
            killed = " (-9: killed, perhaps because memory ran out)" if process.returncode == -9 else ""
            raise RuntimeError(
                f"{command[:4]} ended with {process.returncode}{killed} at {own:.2f} GiB:\n{errors.read()[-2000:]}"
            )
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "peak_anonymous_and_shared_gib": round(own, 3),
        "vmhwm_gib": round(all_of_it, 3),
        "last_line": printed.strip().splitlines()[-1] if printed.strip() else "",
    }
