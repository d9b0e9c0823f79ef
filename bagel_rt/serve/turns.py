"""A turn of a kept conversation: what is said enters, and a text or a picture may come of it. All of it or nothing."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from bagel_rt.conversation.session import Session
from bagel_rt.errors import BagelError
from bagel_rt.events import Event
from bagel_rt.options import presets
from bagel_rt.options.defaults import with_values
from bagel_rt.options.own_settings import Own
from bagel_rt.serve.failures import ApiError
from bagel_rt.serve.hub import Hub
from bagel_rt.serve.kept import Kept
from bagel_rt.serve.work import Work

OF_THE_SESSION = ("seed", "vae_seed", "system", "think", "adapter")  # chosen once, when it is opened


def turn(hub: Hub, kept: Kept, items: Sequence[Any], making: Callable[[Session], Work] | None) -> Work:
    """Read the items, then make what is to be made. One that fails or is cancelled leaves the session as it was."""
    with kept.turn():
        session = kept.session
        before = session.mark()
        try:
            for item in items:
                _read(hub, session, item)
                yield None  # where a cancelled turn ends
            if making is not None:
                yield from making(session)
        except BaseException as error:
            if kept.forgotten and isinstance(error, BagelError):
                raise ApiError(404, f"session {kept.id} was deleted in the middle of this turn", param="id") from None
            if not kept.forgotten:
                session.rollback(before)
            raise
        kept.before.append(before)


def _read(hub: Hub, session: Session, item: Any) -> None:
    if isinstance(item, str):
        session.add_text(item)
    else:
        session.add_image(item, vae=hub.bagel.manifest.task == "full")


def session_options(
    own: Own, output: str, preset: str | None, given: Mapping[str, Any], pictures: bool
) -> dict[str, Any]:
    """Options of a session's turn: a preset's values spelled out, then those given. own: the model's settings. Raises
    InputError."""
    first = presets.defaults(presets.ASK if output == "text" else presets.INTERLEAVE, None, own)
    values = dict(given)
    if preset is not None:
        task = presets.ASK if output == "text" else presets.EDIT if pictures else presets.GENERATE
        chosen = presets.defaults(task, preset, own)
        different = {f.name for f in fields(chosen) if _differs(chosen, first, f.name)}
        values = {**{name: getattr(chosen, name) for name in different - set(OF_THE_SESSION)}, **given}
    with_values(first, values)
    return values


def _differs(one: Any, other: Any, name: str) -> bool:
    return getattr(one, name) is not getattr(other, name) and getattr(one, name) != getattr(other, name)


def events_of(session: Session, output: str, options: Mapping[str, Any]) -> Generator[Event, None, None]:
    """The events of a turn that makes a text or a picture."""
    return session.stream_text(**options) if output == "text" else session.stream_image(**options)
