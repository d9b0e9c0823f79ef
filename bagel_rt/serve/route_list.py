"""/docs: the OpenAPI document as a plain page, without anything from other hosts."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

METHODS = ("get", "post", "delete")


def route_list(document: dict[str, Any]) -> str:
    """An HTML page that lists every route with its fields."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>",
        f"<title>{escape(document['info']['title'])}: routes</title>",
        f"<h1>{escape(document['info']['title'])} {escape(document['info']['version'])}</h1>",
        f"<p>{escape(document['info']['description'])} For programs: <a href='/openapi.json'>openapi.json</a>.",
    ]
    for path, methods in document["paths"].items():
        for method in METHODS:
            if method in methods:
                parts += [f"<h2>{method.upper()} {escape(path)}</h2>", *_operation(methods[method])]
    return "\n".join(parts)


def _operation(operation: dict[str, Any]) -> Iterator[str]:
    yield f"<p>{escape(operation.get('description', ''))}"
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body, {escape(kind)}:<ul>"
        for name, field in content["schema"].get("properties", {}).items():
            yield f"<li><b>{escape(name)}</b>: {escape(field.get('description', ''))}"
        yield "</ul>"
