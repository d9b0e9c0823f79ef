"""Which replica keeps a conversation: its ids say so, where there are several replicas."""

from __future__ import annotations

import json
import re
import secrets

KEPT = re.compile(r"(?:sess|resp)_([A-Za-z0-9]+)\.")  # what an id begins with that names its replica
ADDRESSES = re.compile(r"/v1/(?:sessions|responses)/([^/]+)")


def new_id(kind: str, place: str) -> str:
    """A new id that nobody guesses: KIND_SECRET, or KIND_PLACE.SECRET where a replica is named."""
    return f"{kind}_{place}.{secrets.token_urlsafe(18)}" if place else f"{kind}_{secrets.token_urlsafe(18)}"


def place_of(path: str, body: bytes) -> str:
    """The replica that a request must reach: by the id in its path, or the answer that it goes on from; "": any."""
    found = ADDRESSES.match(path)
    name = found[1] if found else _previous(body) if path == "/v1/responses" else ""
    kept = KEPT.match(name)
    return kept[1] if kept else ""


def _previous(body: bytes) -> str:
    try:
        name = json.loads(body).get("previous_response_id")
    except (ValueError, AttributeError, RecursionError):  # the replica says what is wrong with it
        return ""
    return name if isinstance(name, str) else ""
