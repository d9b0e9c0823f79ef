"""Many prompts, edits and questions from a file, one JSON line per result, going on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bagel_rt.conversation.streaming import drain
from bagel_rt.errors import BagelError, InputError
from bagel_rt.options import presets
from bagel_rt.options.defaults import with_values
from bagel_rt.options.seeds import seeds_of
from bagel_rt.results import ImageResult, TextResult

if TYPE_CHECKING:
    from bagel_rt.api import Bagel

RESULTS = "results.jsonl"
TASKS = (presets.GENERATE, presets.EDIT, presets.ASK)


@dataclass(frozen=True)
class Request:
    """One line of the file, checked."""

    id: str
    task: str  # "generate", "edit" or "ask"
    prompt: str
    images: tuple[Path, ...]
    options: dict[str, Any]  # of the call; `seed` may be a list, `images` a count
    preset: str

    def digest(self, model: str) -> str:
        """A hash of the request and the model: a stored result with another one was made for something else."""
        said = [self.task, self.prompt, [str(path) for path in self.images], self.options, self.preset, model]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def read_requests(file: Path, preset: str | None = None) -> list[Request]:
    """The requests of a JSONL file. Raises InputError naming the first line that cannot be done.

    A line is an object with "prompt", and perhaps "id" (default: the line's number), "task" (default: what the preset
    is for; else edit where there is an image, generate where there is none), "image" (a path or a list of them,
    relative to the file's folder), "preset", and any option of the call.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not readable as text: {error}") from None
    requests: dict[str, Request] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            request = _request(json.loads(line), f"{number:05}", file.parent, preset)
            if request.id in requests:
                raise InputError(f"id {request.id!r} was used before")
        except (InputError, json.JSONDecodeError) as error:
            raise InputError(f"{file}, line {number}: {error}") from None
        requests[request.id] = request
    if not requests:
        raise InputError(f"{file}: holds no requests; one JSON object per line is expected")
    return list(requests.values())


def _request(line: Any, number: str, folder: Path, preset: str | None) -> Request:
    if not isinstance(line, dict) or not isinstance(line.get("prompt"), str):
        raise InputError('a JSON object with a text "prompt" is expected')
    values = dict(line)
    prompt, name = values.pop("prompt"), values.pop("id", number)
    if not isinstance(name, str | int) or not re.fullmatch(r"[\w-][\w.-]*", str(name)):
        raise InputError(f"id is {name!r}; letters, digits, '_', '-' and '.' are expected: it names the pictures")
    given = values.pop("image", [])
    images = given if isinstance(given, list) else [given]
    if not all(isinstance(image, str) for image in images):
        raise InputError('"image" is a path or a list of paths')
    preset = values.pop("preset", preset) or "notebook"
    task = values.pop("task", None) or _task(preset, bool(images))
    request = Request(str(name), task, prompt, tuple(folder / image for image in images), values, preset)
    _check(request)
    return request


def _task(preset: str, has_image: bool) -> str:
    fitting = tuple(presets.PRESETS.get(preset, ()))
    return fitting[0] if len(fitting) == 1 else presets.EDIT if has_image else presets.GENERATE


def _check(request: Request) -> None:
    if request.task not in TASKS:
        raise InputError(f"task is {request.task!r}; allowed: {', '.join(TASKS)}")
    if request.task == presets.EDIT and not request.images:
        raise InputError('an edit needs an "image"')
    if request.task == presets.GENERATE and request.images:
        raise InputError('generate takes no "image"; the task that does is edit')
    for path in request.images:
        if not path.is_file():
            raise InputError(f"{path}: no such image file")
    values = dict(request.options)
    if request.task != presets.ASK and seeds_of(values.get("seed"), values.pop("images", None)):
        values.pop("seed", None)
    with_values(presets.defaults(request.task, request.preset), values)


class Batch:
    """A folder of results, which a second run goes on with: failed and half-written results are done again."""

    def __init__(self, folder: Path, requests: list[Request], model: str):
        self._folder, self._requests, self._model = folder, requests, model
        self._file = folder / RESULTS
        kept = {id: line for id, line in self._stored().items() if self._is_done(line)}
        self.waiting = [request for request in requests if request.id not in kept]
        for request in requests:
            if request.id in kept and kept[request.id]["request"] != request.digest(model):
                raise InputError(
                    f"{self._file}: its result {request.id} is of another request, preset or model; choose another"
                    " folder"
                )
        _write_lines(self._file, kept.values())

    def run(self, bagel: Bagel) -> Iterator[dict[str, Any]]:
        """Do the requests without a result, yielding each result as it was written. One that fails does not end the
        run."""
        for request in self.waiting:
            started = time.perf_counter()
            record = {"id": request.id, "task": request.task, "prompt": request.prompt, "preset": request.preset}
            try:
                record |= self._do(bagel, request)
            except BagelError as error:
                record["error"] = str(error)
            record |= {"seconds": round(time.perf_counter() - started, 3), "request": request.digest(self._model)}
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record, ensure_ascii=False) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            yield record

    def _do(self, bagel: Bagel, request: Request) -> dict[str, Any]:
        items, output = [*request.images, request.prompt], "text" if request.task == presets.ASK else "image"
        result = drain(bagel.stream(items, output, preset=request.preset, **request.options))
        if isinstance(result, TextResult):
            return {"text": result.text, "seed": result.seed}
        several = isinstance(result, list)
        pictures: list[ImageResult] = result if several else [result]
        names = [f"{request.id}-{i}.png" for i in range(1, len(pictures) + 1)] if several else [f"{request.id}.png"]
        for picture, name in zip(pictures, names, strict=True):
            picture.save(self._folder / name)
        return {"files": names, "seeds": [p.seed for p in pictures], "text": pictures[0].text}

    def _stored(self) -> dict[str, dict[str, Any]]:
        """Results by id; a last line that was cut off is left out."""
        if not self._file.exists():
            return {}
        stored = {}
        lines = self._file.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                stored[record["id"]] = record
            except (json.JSONDecodeError, TypeError, KeyError):
                if number < len(lines):
                    raise InputError(f"{self._file}, line {number}: not a result; choose another folder") from None
        return stored

    def _is_done(self, record: dict[str, Any]) -> bool:
        files = record.get("files", [])
        return "error" not in record and all((self._folder / name).is_file() for name in files)


def _write_lines(file: Path, records) -> None:
    partial = file.with_name(f".{file.name}.partial-{os.getpid()}")
    try:
        partial.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
