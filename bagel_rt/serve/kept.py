"""Conversations that are kept between requests, and given back when they rest too long or are too many."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bagel_rt.conversation.marks import Mark
from bagel_rt.conversation.session import Session
from bagel_rt.serve.failures import ApiError
from bagel_rt.serve.hub import Hub
from bagel_rt.serve.places import new_id


@dataclass(eq=False)
class Kept:
    """One conversation: its session, and a mark before each of its turns."""

    session: Session
    id: str
    before: list[Mark] = field(default_factory=list)
    created: int = field(default_factory=lambda: int(time.time()))
    used: float = field(default_factory=time.monotonic)
    forgotten: bool = False
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """One turn at a time. Raises ApiError 409 while another is under way."""
        if not self._turn.acquire(blocking=False):
            raise ApiError(409, f"session {self.id} is in the middle of a turn", code="session_busy")
        try:
            yield
        finally:
            self.used = time.monotonic()
            self._turn.release()

    @property
    def busy(self) -> bool:
        return self._turn.locked()


class Sessions:
    """The kept conversations of a server. Calls may wait for a step of the model: they belong on threads."""

    def __init__(self, hub: Hub):
        self._hub, self._kept, self._lock = hub, {}, threading.Lock()

    def keep(self, session: Session, before: list[Mark] | None = None) -> Kept:
        """Keep a session; the one that rested longest makes room. Raises ApiError 429 when all are in use."""
        kept = Kept(session, new_id("sess", self._hub.settings.place), list(before or ()))
        with self._lock:
            gone = self._surplus()
            self._kept[kept.id] = kept
            self._show()
        for one in gone:
            one.session.close()
        return kept

    def find(self, name: str) -> Kept:
        """Raises ApiError 404 for one that is not kept, or no more."""
        self.sweep()
        with self._lock:
            kept = self._kept.get(name)
        if kept is None:
            idle = self._hub.settings.session_idle
            raise ApiError(404, f"no such session; those that rest for {idle:g} seconds are given back", param="id")
        kept.used = time.monotonic()
        return kept

    def forget(self, name: str) -> None:
        """Close a session and give its pages back; a turn that is under way ends at its next step."""
        kept = self.find(name)
        with self._lock:
            self._kept.pop(name, None)
            self._show()
        kept.forgotten = True
        kept.session.close()

    def sweep(self) -> None:
        """Give back those that rested too long."""
        oldest = time.monotonic() - self._hub.settings.session_idle
        with self._lock:
            idle = [one for one in self._kept.values() if one.used < oldest and not one.busy]
            for one in idle:
                del self._kept[one.id]
            self._show()
        for one in idle:
            one.session.close()

    def _surplus(self) -> list[Kept]:
        if len(self._kept) < self._hub.settings.max_sessions:
            return []
        resting = sorted((one for one in self._kept.values() if not one.busy), key=lambda one: one.used)
        if not resting:
            raise ApiError(429, f"all {len(self._kept)} sessions are in use", headers={"Retry-After": "10"})
        return [self._kept.pop(resting[0].id)]

    def _show(self) -> None:
        self._hub.meters.sessions.set(len(self._kept))


def described(kept: Kept, idle: float) -> dict[str, Any]:
    """A session as an answer."""
    return {
        "id": kept.id,
        "object": "session",
        "created": kept.created,
        "seed": kept.session.seed,
        "think": kept.session.think,
        "turns": len(kept.before),
        "idle_seconds": idle,
    }
