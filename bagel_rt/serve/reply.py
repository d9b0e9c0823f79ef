"""A response while it is made: its output items, and OpenAI's events about them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any

from bagel_rt.results import TextResult
from bagel_rt.serve.answers import sse
from bagel_rt.serve.drawing import Form, Picture, Preview, Words
from bagel_rt.serve.thoughts import Thoughts, told_apart

CALL = "response.image_generation_call"


class Reply:
    """Takes what a turn makes, piece by piece; gives out events, and at last the whole response."""

    def __init__(self, name: str, model: str, draws: bool, form: Form, previous: str | None, store: bool):
        self.id = name
        self._model, self._draws, self._form, self._store = model, draws, form, store
        self._previous, self._created = previous, int(time.time())
        self._item, self._sequence, self._thoughts = f"item_{secrets.token_hex(12)}", 0, Thoughts()
        self._output: list[dict[str, Any]] = []
        self._usage: dict[str, Any] | None = None
        self._index = 0  # of the item that is being made: behind a thought, where there is one

    def begin(self) -> Iterator[bytes]:
        yield self._event("response.created", response=self.body("in_progress"))
        yield self._event("response.in_progress", response=self.body("in_progress"))
        if self._draws:
            yield self._added(
                {"id": self._item, "type": "image_generation_call", "status": "in_progress", "result": None}
            )
            yield self._event(f"{CALL}.in_progress", **self._where())
            yield self._event(f"{CALL}.generating", **self._where())
        else:
            yield self._added(self._message("", "in_progress", empty=True))
            yield self._event("response.content_part.added", content_index=0, part=_part(""), **self._where())

    def took(self, item: Any) -> Iterator[bytes]:
        """Events about a piece of what is made."""
        if isinstance(item, Preview):
            more = {"partial_image_b64": item.data, "partial_image_index": item.index, "size": item.size}
            yield self._event(f"{CALL}.partial_image", **more, output_format=self._form.format, **self._where())
        elif isinstance(item, Words) and item.stage != "thinking":
            yield from self._deltas(*self._thoughts.push(item.text))
        elif isinstance(item, TextResult):
            yield from self._deltas(*self._thoughts.push("", last=True))

    def _deltas(self, thought: str, said: str) -> Iterator[bytes]:
        if thought:
            yield self._event("response.reasoning_text.delta", content_index=0, delta=thought, **self._where())
        if said:
            more = {"content_index": 0, "delta": said, "logprobs": []}
            yield self._event("response.output_text.delta", **more, **self._where())

    def finish(self, made: TextResult | Picture, inputs: int, cached: int, written: int, thought: int) -> None:
        """The output items and the usage, once all is made."""
        if isinstance(made, Picture):
            plan, item = made.plan, self._call(made)
        else:
            plan, said = told_apart(made.text)
            item = self._message(said, "completed")
        thinking = {"id": f"rs_{secrets.token_hex(12)}", "type": "reasoning", "summary": []}
        if plan:
            self._output.append({**thinking, "content": [{"type": "reasoning_text", "text": plan}]})
        self._output.append(item)
        self._usage = {
            "input_tokens": inputs + cached,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": inputs},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": thought},
            "total_tokens": inputs + cached + written,
        }

    def end(self) -> Iterator[bytes]:
        item = self._output[-1]
        if self._draws:
            yield self._event(f"{CALL}.completed", **self._where())
        else:
            text = item["content"][0]["text"]
            yield self._event("response.output_text.done", content_index=0, text=text, logprobs=[], **self._where())
            yield self._event("response.content_part.done", content_index=0, part=_part(text), **self._where())
        yield self._event("response.output_item.done", output_index=self._index, item=item)
        yield self._event("response.completed", response=self.body("completed"))

    def body(self, status: str = "completed") -> dict[str, Any]:
        """The response as JSON."""
        return {
            "id": self.id, "object": "response", "created_at": self._created, "status": status, "model": self._model,
            "output": self._output, "usage": self._usage, "previous_response_id": self._previous, "store": self._store,
            "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "tools": [],
            "tool_choice": "auto", "parallel_tool_calls": False, "temperature": None, "top_p": None,
            "text": {"format": {"type": "text"}},
        }  # fmt: skip

    def _message(self, text: str, status: str, empty: bool = False) -> dict[str, Any]:
        content = [] if empty else [_part(text)]
        return {"id": self._item, "type": "message", "role": "assistant", "status": status, "content": content}

    def _call(self, made: Picture) -> dict[str, Any]:
        facts = {"size": made.size, "output_format": self._form.format, "background": "opaque", "quality": "auto"}
        found = {"id": self._item, "type": "image_generation_call", "status": "completed", "result": made.data, **facts}
        return {**found, "revised_prompt": made.plan, "seed": made.result.seed}

    def _added(self, item: dict[str, Any]) -> bytes:
        return self._event("response.output_item.added", output_index=self._index, item=item)

    def _where(self) -> dict[str, Any]:
        return {"item_id": self._item, "output_index": self._index}

    def _event(self, kind: str, **more: Any) -> bytes:
        self._sequence += 1
        return sse({"type": kind, "sequence_number": self._sequence - 1, **more}, kind)


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
