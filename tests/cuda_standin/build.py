#!/usr/bin/env python3
"""Builds a CUDA that computes nothing for one installed onnxruntime-gpu:  build.py ONNXRUNTIME_FOLDER OUT_FOLDER

Every library that the CUDA provider links is made from the .cpp file of its name. A function that the provider asks for
and the file lacks is added: it writes its name down and says that it succeeded. Needs g++, nm and cuda-python.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARIES = {  # file of this folder -> (soname, version of its symbols)
    "cudart": ("libcudart.so.13", "libcudart.so.13"),
    "cublas": ("libcublas.so.13", "libcublas.so.13"),
    "cublasLt": ("libcublasLt.so.13", "libcublasLt.so.13"),
    "curand": ("libcurand.so.10", "libcurand.so.10"),
    "cuda": ("libcuda.so.1", None),
    "cudnn": ("libcudnn.so.9", None),
}
CARD = {  # an H100's numbers
    "name": b"stand-in of an H100".ljust(256, b"\0"),
    "totalGlobalMem": 80 << 30,
    "major": 9,
    "minor": 0,
    "multiProcessorCount": 132,
    "sharedMemPerBlock": 49152,
    "sharedMemPerBlockOptin": 232448,
    "sharedMemPerMultiprocessor": 233472,
    "reservedSharedMemPerBlock": 1024,
    "regsPerBlock": 65536,
    "regsPerMultiprocessor": 65536,
    "warpSize": 32,
    "maxThreadsPerBlock": 1024,
    "maxThreadsPerMultiProcessor": 2048,
    "maxBlocksPerMultiProcessor": 32,
    "maxGridSize": [2147483647, 65535, 65535],
    "maxThreadsDim": [1024, 1024, 64],
    "l2CacheSize": 50 << 20,
    "textureAlignment": 512,
    "memoryBusWidth": 5120,
    "cooperativeLaunch": 1,
    "unifiedAddressing": 1,
    "concurrentKernels": 1,
    "memoryPoolsSupported": 1,
}
PROPERTIES = 1008  # bytes of cudaDeviceProp in CUDA 13


def build(package: Path, out: Path) -> Path:
    """package: the folder of an installed onnxruntime-gpu. Returns the folder of the libraries."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "device.h").write_text(device_header())
    provider = package / "capi" / "libonnxruntime_providers_cuda.so"
    wanted = asked_for(provider)
    compiled(["journal.cpp"], out / "libstandin.so", out)
    for name, (soname, version) in LIBRARIES.items():
        source = HERE / f"{name}.cpp"
        text = f'#include "{source}"\n' if source.is_file() else f'#include "{HERE / "journal.h"}"\n'
        own = set(re.findall(r"\b(\w+)\(", source.read_text())) if source.is_file() else set()
        for missing in sorted(wanted[name] - own) or [f"{name}_nothing"]:
            text += f'API int {missing}() {{ journal("call {missing}"); return 0; }}\n'
        made = out / f"{name}_whole.cpp"
        made.write_text(text)
        more = [str(out / "libstandin.so"), f"-Wl,-soname,{soname}", "-Wl,-rpath,$ORIGIN"]
        if version:
            script = out / f"{name}.map"
            script.write_text(f"{version} {{ global: *; }};\n")
            more.append(f"-Wl,--version-script,{script}")
        compiled([str(made)], out / soname, out, more)
    return out


def asked_for(provider: Path) -> dict[str, set[str]]:
    """Functions the provider takes from each library: those it links, and cuDNN's, which it looks up by name."""
    listed = subprocess.run(["nm", "-D", "--undefined-only", provider], capture_output=True, text=True, check=True)
    found: dict[str, set[str]] = {name: set() for name in LIBRARIES}
    for symbol in (line.split()[-1] for line in listed.stdout.splitlines()):
        name, _, library = symbol.partition("@")
        for key, (soname, _) in LIBRARIES.items():
            if library == soname:
                found[key].add(name)
        if re.match(r"cu[A-Z]", name) and not library:
            found["cuda"].add(name)
    words = re.findall(rb"\0(cudnn[A-Z]\w+)(?=\0)", provider.read_bytes())
    found["cudnn"] = {word.decode() for word in words}
    return found


def device_header() -> str:
    from cuda.bindings import runtime

    card = runtime.cudaDeviceProp()
    for key, value in CARD.items():
        setattr(card, key, value)
    numbers = ",".join(map(str, ctypes.string_at(card.getPtr(), PROPERTIES)))
    return (
        f"static const unsigned char DEVICE[] = {{{numbers}}};\n"
        f"enum {{ DEVICE_MAJOR = {CARD['major']}, DEVICE_MINOR = {CARD['minor']} }};\n"
    )


def compiled(sources: list[str], out: Path, include: Path, more: list[str] | None = None) -> None:
    command = ["g++", "-O1", "-fPIC", "-shared", "-w", "-fvisibility=hidden", f"-I{include}", f"-I{HERE}"]
    subprocess.run([*command, *sources, "-o", str(out), *(more or [])], check=True, cwd=HERE)


if __name__ == "__main__":
    print("built in", build(Path(sys.argv[1]), Path(sys.argv[2])))
