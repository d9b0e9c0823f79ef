"""The file of a batch: one request per line, all of them checked before any is done."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bagel_rt.errors import InputError
from bagel_rt.files.text_files import parse_json, read_text
from bagel_rt.files.typed_paths import typed_path
from bagel_rt.inputs.masks import open_mask
from bagel_rt.options import checks, presets
from bagel_rt.options.defaults import with_values
from bagel_rt.options.own_settings import NOTHING, Own
from bagel_rt.options.seeds import seeds_of

TASKS = (presets.GENERATE, presets.EDIT, presets.ASK)
DIGEST_FORM = "2-"  # what digest() begins with; results of an earlier form name their requests by paths as typed


@dataclass(frozen=True)
class Request:
    """One line of the file, checked."""

    id: str
    task: str  # "generate", "edit" or "ask"
    prompt: str
    images: tuple[Path, ...]
    hashes: tuple[str, ...]  # of the images' bytes
    options: dict[str, Any]  # of the call; `seed` may be a list, `images` a count
    preset: str
    meant: dict[str, Any]  # every option as it will be used, the preset's included

    @property
    def endings(self) -> list[str]:
        """What its files' names end with, one per picture."""
        if self.task == presets.ASK:
            return []
        count = self.meant["images"]
        return [".png"] if count is None else [f"-{i}.png" for i in range(1, count + 1)]

    def digest(self, model: str) -> str:
        """Names what is asked for, and of which model: the same however it is written and wherever its pictures lie."""
        said = [self.task, self.prompt, self.hashes, _plain(self.meant), model]
        return DIGEST_FORM + hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def read_requests(file: Path, preset: str | None = None, own: Own = NOTHING) -> list[Request]:
    """The requests of a JSONL file. Raises InputError naming the first line that cannot be done.

    A line is an object with "prompt", and perhaps "id" (default: the line's number), "task" (default: what the preset
    is for; else edit where there is an image, generate where there is none), "image" (a path or a list of them,
    relative to the file's folder), "preset", and any option of the call. own: the model's settings.
    """
    requests: dict[str, Request] = {}
    hashed = cache(hash_of)  # a picture may stand in many lines
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            request = _request(parse_json(line, _once), f"{number:05}", file.parent, preset, own, hashed)
            if request.id in requests:
                raise InputError(f"id {request.id!r} was used before")
        except InputError as error:
            raise InputError(f"{file}, line {number}: {error}") from None
        requests[request.id] = request
    if not requests:
        raise InputError(f"{file}: holds no requests; one JSON object per line is expected")
    return list(requests.values())


def hash_of(path: Path) -> str:
    """Of an image file's bytes. Raises InputError for what is no file."""
    if os.path.isdir(path):
        raise InputError(f"{path}: is a folder; name an image file")
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such image file")
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: not readable: {error.strerror}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand in it once."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InputError(f"key {key!r} stands there twice")
        found[key] = value
    return found


def _request(
    line: Any, number: str, folder: Path, preset: str | None, own: Own, hashed: Callable[[Path], str]
) -> Request:
    if not isinstance(line, dict) or not isinstance(line.get("prompt"), str):
        raise InputError('a JSON object with a text "prompt" is expected')
    values = dict(line)
    prompt, name = values.pop("prompt"), values.pop("id", number)
    if isinstance(name, bool) or not isinstance(name, str | int) or not re.fullmatch(r"[\w-][\w.-]*", str(name)):
        raise InputError(f"id is {name!r}; letters, digits, '_', '-' and '.' are expected: it names the pictures")
    given = values.pop("image", [])
    images = given if isinstance(given, list) else [given]
    if not all(isinstance(image, str) for image in images):
        raise InputError('"image" is a path or a list of paths')
    chosen: str = checks.text("preset", values.pop("preset", preset) or presets.MODEL)
    task = values.pop("task", None) or _task(chosen, bool(images))
    _check_task(task, bool(images))
    paths = tuple(folder / typed_path(image, folder) for image in images)
    files = [*paths]
    if isinstance(values.get("mask"), str):
        files.append(folder / typed_path(values["mask"], folder))
        values["mask"] = open_mask(files[-1])
    hashes = tuple(map(hashed, files))
    return Request(str(name), task, prompt, paths, hashes, values, chosen, _meant(task, chosen, own, values))


def _task(preset: str, has_image: bool) -> str:
    fitting = tuple(presets.PRESETS.get(preset, ()))
    return fitting[0] if len(fitting) == 1 else presets.EDIT if has_image else presets.GENERATE


def _check_task(task: Any, has_image: bool) -> None:
    if task not in TASKS:
        raise InputError(f"task is {task!r}; allowed: {', '.join(TASKS)}")
    if task == presets.EDIT and not has_image:
        raise InputError('an edit needs an "image"')
    if task == presets.GENERATE and has_image:
        raise InputError('generate takes no "image"; the task that does is edit')


def _meant(task: str, preset: str, own: Own, options: dict[str, Any]) -> dict[str, Any]:
    """Every option of the call with its value, `seed` as the list of all seeds where it is given. Raises InputError."""
    defaults, values = presets.defaults(task, preset, own), dict(options)
    if task == presets.ASK:
        return with_values(defaults, values).describe()
    count, seed = values.pop("images", None), values.pop("seed", defaults.seed)
    seeds = seeds_of(seed, count)
    described = with_values(defaults, {**values, "seed": None if seeds else seed}).describe()
    fixed = None if seed is None else seeds or [seed]
    return {**described, "seed": fixed, "images": len(seeds) if seeds else None}


def _plain(value: Any) -> Any:
    """Equal for equal numbers: 4 and 4.0 ask for the same."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
