"""The folder of a batch: one line and its pictures per request done, going on where it was stopped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bagel_engines import disk
from bagel_rt.cli.batch_answers import Answer, answered, words_for
from bagel_rt.cli.jsonl_requests import DIGEST_FORM, Request
from bagel_rt.errors import InputError
from bagel_rt.files.output_files import append_line, write_bytes
from bagel_rt.files.safe_names import names_for, same_file
from bagel_rt.files.text_files import json_line, parse_json
from bagel_rt.results import ImageResult, TextResult

if TYPE_CHECKING:
    from bagel_rt.api import Bagel

RESULTS = "results.jsonl"


class Batch:
    """A folder of results, which a second run goes on with: failed and half-written results are done again."""

    def __init__(self, folder: Path, requests: list[Request], model: str):
        """model: the fingerprint of the model. Raises InputError for a folder with results of other requests."""
        self._folder, self._model = folder, model
        self._file = folder / RESULTS
        stored = self._stored()
        kept = {id: record for id, record in stored.items() if self._is_done(record)}
        for request in requests:
            if request.id in kept:
                self._check_same(request, kept[request.id])
        self.waiting = [request for request in requests if request.id not in kept]
        self.names = self._names(stored, kept)
        write_bytes(self._file, "".join(json_line(record) + "\n" for record in kept.values()).encode())

    def run(self, bagel: Bagel) -> Iterator[dict[str, Any]]:
        """Do the requests without a result here, one after another; see `record`."""
        return self.record(answered(bagel, one) for one in self.waiting)

    def record(self, answers: Iterable[Answer]) -> Iterator[dict[str, Any]]:
        """Keep answers as they come, yielding each result as it was written. One that failed, for whatever reason, does
        not end the run; a results file that cannot be written does."""
        for answer in answers:
            request = answer.request
            record = {"id": request.id, "task": request.task, "prompt": request.prompt, "preset": request.preset}
            record |= self._outcome(answer)
            record |= {"seconds": round(answer.seconds, 3), "request": request.digest(self._model)}
            append_line(self._file, json_line(record))
            yield record

    def _outcome(self, answer: Answer) -> dict[str, Any]:
        if answer.error is not None:
            return {"error": answer.error}
        try:
            return self._kept(answer)
        except Exception as error:  # a disk that is full may have room for the next
            return {"error": words_for(error)}

    def _kept(self, answer: Answer) -> dict[str, Any]:
        if isinstance(answer.result, TextResult):
            return {"text": answer.result.text, "seed": answer.result.seed}
        pictures: list[ImageResult] = answer.result if isinstance(answer.result, list) else [answer.result]
        names = self.names[answer.request.id]
        self._save(pictures, names)
        return {"files": names, "seeds": [p.seed for p in pictures], "text": pictures[0].text}

    def _save(self, pictures: list[ImageResult], names: list[str]) -> None:
        """All of them or none: a picture without a line would have no owner."""
        saved = []
        try:
            for picture, name in zip(pictures, names, strict=True):
                picture.save(self._folder / name)
                saved.append(self._folder / name)
        except BaseException:
            for path in saved:
                disk.remove(path)
            raise

    def _names(self, stored: dict[str, dict[str, Any]], kept: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
        """File names of what is waiting, by id: no two alike, none that a kept result or a stranger's file has."""
        lost = {name for id, record in stored.items() if id not in kept for name in record.get("files", [])}
        there = {name for name in os.listdir(self._folder) if name not in lost}
        taken = {same_file(name) for name in there.union(*(record.get("files", []) for record in kept.values()))}
        names = {}
        for request in self.waiting:
            names[request.id] = names_for(request.id, request.endings, taken)
            taken |= {same_file(name) for name in names[request.id]}
        return names

    def _check_same(self, request: Request, record: dict[str, Any]) -> None:
        digest = str(record.get("request"))
        if not digest.startswith(DIGEST_FORM):
            raise InputError(
                f"{self._file}: its result {request.id} was written by an earlier bagel-rt, which does not say well"
                " enough of which request it is; choose another folder"
            )
        if digest != request.digest(self._model):
            raise InputError(
                f"{self._file}: its result {request.id} is of another request, preset or model; choose another folder"
            )

    def _stored(self) -> dict[str, dict[str, Any]]:
        """Results by id; a last line that was cut off is left out."""
        if not self._file.exists():
            return {}
        stored = {}
        lines = self._file.read_bytes().decode("utf-8", "replace").split("\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = parse_json(line)
                stored[record["id"]] = record
            except (InputError, TypeError, KeyError):
                if number < len(lines):
                    raise InputError(f"{self._file}, line {number}: not a result; choose another folder") from None
        return stored

    def _is_done(self, record: dict[str, Any]) -> bool:
        files = record.get("files", [])
        return "error" not in record and all((self._folder / name).is_file() for name in files)
