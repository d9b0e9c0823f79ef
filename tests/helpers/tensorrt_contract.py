"""The signatures of NVIDIA's real Python bindings, watching the calls of code that runs over a fake.

`bindings()` imports the real tensorrt 11 module where libnvinfer is not installed: the few C functions that it asks
for are given by libraries whose functions return null. Every class, signature, property and enum in it can then be
read, and nothing can be built or run. A WatchedModule wraps a fake: each call is checked against them first.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import inspect
import re
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

NEEDED = re.compile("Infer|PluginRegistry|NvOnnx")
FAKED = ("Builder", "OnnxParser", "Runtime")  # what code under test makes itself; the rest comes from these
RETURN_NULL = b"\x31\xc0\xc3"  # xor eax, eax; ret
PAGE = 0x1000


class ApiError(AttributeError, TypeError):
    """A call that the real bindings would refuse."""


def bindings() -> ModuleType:
    """The module `tensorrt_bindings`, from its wheel alone."""
    try:
        return importlib.import_module("tensorrt_bindings")
    except ImportError as error:
        if "libnv" not in str(error):
            raise
    spec = importlib.util.find_spec("tensorrt_bindings")
    assert spec is not None
    assert spec.origin is not None
    libraries, functions = imports_of(Path(spec.origin).with_name("tensorrt.so").read_bytes())
    folder = Path(tempfile.mkdtemp(prefix="null-libraries-"))
    for library in libraries:
        (folder / library).write_bytes(null_library(library, [f for f in functions if NEEDED.search(f)]))
        ctypes.CDLL(str(folder / library), mode=ctypes.RTLD_GLOBAL)  # the loader goes by the name it was linked under
    for name in [n for n in sys.modules if n.startswith("tensorrt_bindings")]:
        del sys.modules[name]
    return importlib.import_module("tensorrt_bindings")


def imports_of(elf: bytes) -> tuple[list[str], list[str]]:
    """The NVIDIA libraries that a shared library is linked to, and the functions it expects from anywhere."""
    sections = _sections(elf)
    _, _, start, size = sections[".dynstr"]
    strings = elf[start : start + size]

    def text(at: int) -> str:
        return strings[at : strings.index(b"\0", at)].decode()

    _, _, start, size = sections[".dynamic"]
    entries = struct.iter_unpack("<QQ", elf[start : start + size])
    libraries = [text(value) for tag, value in entries if tag == 1]
    _, _, start, size = sections[".dynsym"]
    symbols = struct.iter_unpack("<IBBHQQ", elf[start : start + size])
    functions = [text(name) for name, info, _, section, _, _ in symbols if name and section == 0 and info >> 4 == 1]
    return [name for name in libraries if name.startswith("libnv")], functions


def _sections(elf: bytes) -> dict[str, tuple[int, int, int, int]]:
    """(type, flags, offset, size) of each section by name."""
    (start,) = struct.unpack_from("<Q", elf, 40)
    size, count, names = struct.unpack_from("<HHH", elf, 58)
    found = [struct.unpack_from("<IIQQQQ", elf, start + i * size) for i in range(count)]
    base = found[names][4]
    return {elf[base + s[0] : elf.index(b"\0", base + s[0])].decode(): (s[1], s[2], s[4], s[5]) for s in found}


def null_library(name: str, functions: list[str]) -> bytes:
    """A 64-bit x86 ELF library of that name whose functions all return null."""
    strings, places = b"\0", {}
    for text in (name, *functions):
        places[text] = len(strings)
        strings += text.encode() + b"\0"
    count = len(functions) + 1
    symbols_at = 64 + 3 * 56
    hash_at = symbols_at + 24 * count
    strings_at = hash_at + 4 * (3 + count)
    code_at = (strings_at + len(strings) + 15) & ~15
    dynamic_at = PAGE * -(-(code_at + 16) // PAGE)
    symbols = bytes(24) + b"".join(struct.pack("<IBBHQQ", places[f], 0x12, 0, 1, code_at, 3) for f in functions)
    following = [0, *(i + 1 if i + 1 < count else 0 for i in range(1, count))]
    hashes = struct.pack(f"<III{count}I", 1, count, 1 if count > 1 else 0, *following)
    tags = ((14, places[name]), (4, hash_at), (5, strings_at), (6, symbols_at), (10, len(strings)), (11, 24), (0, 0))
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in tags)
    segments = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, code_at + 16, code_at + 16, PAGE)
    for kind, align in ((1, PAGE), (2, 8)):
        segments += struct.pack("<IIQQQQQQ", kind, 6, *[dynamic_at] * 3, *[len(dynamic)] * 2, align)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 3, 0, 0, 0)
    out = bytearray(dynamic_at + len(dynamic))
    parts = (
        (0, header), (64, segments), (symbols_at, symbols), (hash_at, hashes), (strings_at, strings),
        (code_at, RETURN_NULL), (dynamic_at, dynamic),
    )  # fmt: skip
    for at, part in parts:
        out[at : at + len(part)] = part
    return bytes(out)


class Watched:
    """An object of the fake that lets through only what the real class of that name takes."""

    def __init__(self, api: WatchedModule, inner: Any, kind: type):
        self.__dict__.update(_api=api, _inner=inner, _kind=kind)

    def __getattr__(self, name: str) -> Any:
        real = inspect.getattr_static(self._kind, name, None)
        if real is None:
            raise ApiError(f"{self._kind.__name__} has no {name}")
        if isinstance(real, property):
            return self._api.wrapped(getattr(self._inner, name), _returned(real.fget.__doc__))
        signatures = list(signatures_of(getattr(self._kind, name).__doc__ or "", name))

        def call(*args: Any, **named: Any) -> Any:
            returned = self._api.checked(f"{self._kind.__name__}.{name}", signatures, args, named)
            plain = [_plain(a) for a in args], {k: _plain(v) for k, v in named.items()}
            return self._api.wrapped(getattr(self._inner, name)(*plain[0], **plain[1]), returned)

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        real = inspect.getattr_static(self._kind, name, None)
        if not isinstance(real, property) or real.fset is None:
            raise ApiError(f"{self._kind.__name__}.{name} cannot be set")
        if not self._api.fits(value, _returned(real.fget.__doc__)):
            raise ApiError(f"{self._kind.__name__}.{name} cannot be {value!r}")
        setattr(self._inner, name, _plain(value))


def _plain(value: Any) -> Any:
    return value._inner if isinstance(value, Watched) else value


class WatchedModule(ModuleType):
    """`import tensorrt`, made of the fake's objects behind the real module's signatures."""

    def __init__(self, real: ModuleType, fake: Any):
        super().__init__("tensorrt")
        self.__dict__.update(_real=real, _fake=fake, __version__=real.__version__, calls=[])

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name, None)
        if real is None:
            raise ApiError(f"tensorrt {self.__version__} has no {name}")
        if name not in FAKED:
            return real

        def make(*args: Any, **named: Any) -> Watched:
            self.checked(name, list(signatures_of(real.__init__.__doc__ or "", "__init__")), args, named)
            return Watched(self, getattr(self._fake, name)(*map(_plain, args), **named), real)

        return make

    def checked(self, what: str, signatures: list, args: tuple, named: dict) -> str:
        """What the first signature that takes these arguments returns. Raises ApiError when none does."""
        self.calls.append(what)
        why = ["it has no signature"] if not signatures else []
        for parameters, returned in signatures:
            given = dict(zip((p[0] for p in parameters), args, strict=False))
            wrong = [f"no argument {n}" for n in named if n not in [p[0] for p in parameters] or n in given]
            given |= named
            if len(args) > len(parameters):
                wrong.append(f"takes {len(parameters)} arguments")
            for name, kind, optional in parameters:
                if name not in given:
                    wrong += [] if optional else [f"lacks {name}"]
                elif not self.fits(given[name], kind):
                    wrong.append(f"{name} is {kind}, not {type(given[name]).__name__}")
            if not wrong:
                return returned
            why += wrong
        raise ApiError(f"{what}: {'; '.join(why)}")

    def fits(self, value: Any, kind: str) -> bool:
        """Whether the bindings would take a value for a parameter of that type."""
        simple = {"str": str, "bool": bool, "tuple": tuple, "list": list, "object": object}
        if kind in simple:
            return isinstance(value, simple[kind])
        if kind in ("typing.SupportsInt", "int"):
            return hasattr(value, "__index__")
        if kind == "typing_extensions.Buffer":
            return _is_buffer(_plain(value))
        if kind == "Dims":
            return all(hasattr(n, "__index__") for n in value)
        real = getattr(self._real, kind, None)
        seen = value._kind if isinstance(value, Watched) else type(value)
        return isinstance(real, type) and issubclass(seen, real)

    def wrapped(self, value: Any, kind: str) -> Any:
        real = getattr(self._real, kind, None)
        ours = isinstance(real, type) and not isinstance(value, real | int | tuple | bytes) and value is not None
        return Watched(self, value, real) if ours else value  # type: ignore[arg-type]


def _is_buffer(value: Any) -> bool:
    try:
        memoryview(value)
    except TypeError:
        return False
    return True


def _returned(doc: str | None) -> str:
    return _short((doc or "").strip().splitlines()[0].rpartition("-> ")[2]) if doc else "object"


def _short(kind: str) -> str:
    """A type as the docstrings write it, without its module."""
    return kind.strip() if kind.startswith("typing") else re.sub(r"^.*[.:]", "", kind.strip())


def signatures_of(doc: str, name: str) -> Iterator[tuple[list[tuple[str, str, bool]], str]]:
    """Each overload in a docstring of pybind11: [(parameter, type, optional)], what it returns."""
    for line in doc.splitlines():
        found = re.match(rf"(?:\d+\. )?{re.escape(name)}\((.*)\) -> (.*)$", line.strip())
        if found is None or "*args" in line:
            continue
        parameters = []
        for text in re.split(r", (?![^\[<]*[\]>])", found[1]):
            parameter, _, kind = text.partition(": ")
            kind, optional, _ = kind.partition(" = ")
            if parameter != "self":
                parameters.append((parameter, _short(kind), bool(optional)))
        yield parameters, _short(found[2])
