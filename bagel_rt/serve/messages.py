"""Messages of a chat become the texts and pictures that the model reads, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bagel_rt.options import checks
from bagel_rt.serve.asking import unwrapped
from bagel_rt.serve.failures import refused
from bagel_rt.serve.pictures_in import PictureReader, as_list

ROLES = ("system", "developer", "user", "assistant")
TEXT_PARTS, PICTURE_PARTS = ("text", "input_text", "output_text"), ("image_url", "input_image", "image")


def items_of(messages: Any, reader: PictureReader) -> list[Any]:
    """All texts and pictures of a conversation. Raises ApiError for what is neither.

    In a message with one text its pictures come first, as in the official code's calls; with several texts the order is
    kept. Pictures of an assistant's message stand in its content, or in its `images`.
    """
    if not isinstance(messages, list) or not messages:
        raise refused("messages is empty or no list; a list of messages is expected", "messages")
    found = [item for index, one in enumerate(messages) for item in _items(one, f"messages[{index}]", reader)]
    if not found:
        raise refused("the messages hold no text and no picture", "messages")
    return found


def with_system(messages: Any, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(the other messages, options with `system`), where a conversation begins with a system message that is a text.

    With `think` the official system prompt stands there, and a system message stays what it is: the first text.
    """
    first = messages[0] if isinstance(messages, list) and len(messages) > 1 else None
    content = first.get("content") if isinstance(first, Mapping) and first.get("role") in ROLES[:2] else None
    if not isinstance(content, str) or not content.strip() or options.get("think") or "system" in options:
        return messages, dict(options)
    return messages[1:], {**options, "system": unwrapped(content)}


def _items(message: Any, where: str, reader: PictureReader) -> Iterator[Any]:
    if not isinstance(message, Mapping):
        raise refused(f"{where} is {checks.shown(message)}; an object with role and content is expected", "messages")
    if message.get("role") not in ROLES:
        seen = checks.shown(message.get("role"))
        raise refused(f"{where}.role is {seen}; allowed: {', '.join(ROLES)}", "messages")
    parts = content_parts(message.get("content"), where, reader)
    pictures = [reader.image(_picture(one), where) for one in as_list(message.get("images"))]
    yield from in_order([*parts, *pictures])


def in_order(parts: list[Any]) -> list[Any]:
    """Pictures first, where there is one text at most."""
    texts = [one for one in parts if isinstance(one, str)]
    return parts if len(texts) > 1 else [*(one for one in parts if not isinstance(one, str)), *texts]


def content_parts(content: Any, where: str, reader: PictureReader) -> list[Any]:
    """The texts and pictures of a message's content, empty texts left out."""
    if content is None:
        return []
    if isinstance(content, str):
        return [text] if (text := unwrapped(content)) else []
    if not isinstance(content, list):
        raise refused(f"{where}.content is {checks.shown(content)}; a text or a list of parts is expected", "messages")
    found = [_part(one, f"{where}.content[{index}]", reader) for index, one in enumerate(content)]
    return [one for one in found if one != ""]


def _part(part: Any, where: str, reader: PictureReader) -> Any:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and kind in TEXT_PARTS:
        return unwrapped(checks.text(f"{where}.text", part.get("text")))
    if isinstance(part, Mapping) and kind in PICTURE_PARTS:
        return reader.image(_picture(part), where)
    allowed = ", ".join((*TEXT_PARTS, *PICTURE_PARTS))
    raise refused(f"{where}.type is {checks.shown(kind)}; allowed: {allowed}", "messages")


def _picture(part: Any) -> Any:
    """What a picture part holds: {"image_url": {"url": ...}}, {"image_url": "..."}, {"image": "..."}."""
    if not isinstance(part, Mapping):
        return part
    return part.get("image_url") or part.get("image") or part.get("url") or dict(part)


def characters(messages: Any) -> int:
    """Of all texts, before anything is opened."""
    if isinstance(messages, str):
        return len(messages)
    if isinstance(messages, list):
        return sum(characters(one) for one in messages)
    if isinstance(messages, Mapping):
        return sum(characters(messages.get(key)) for key in ("content", "text", "input"))
    return 0
