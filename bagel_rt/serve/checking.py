"""Limits of a server, checked before anything of a request is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bagel_rt.options import checks, presets
from bagel_rt.serve.asking import Asked
from bagel_rt.serve.failures import ApiError, refused
from bagel_rt.serve.hub import Hub


def check_model(hub: Hub, asked: Asked) -> Asked:
    """The request, with the adapter that MODEL:ADAPTER names. One for another model is answered by this one, which a
    warning says, or refused under strict."""
    given = asked.own.get("model")
    if given is None or given == hub.name:
        return asked
    checks.text("model", given)
    if given in hub.names:
        return replace(asked, options={"adapter": given.removeprefix(f"{hub.name}:"), **asked.options})
    if hub.settings.strict:
        raise ApiError(
            404,
            f"no model {checks.shown(given)} here; {', '.join(hub.names)} is",
            param="model",
            code="model_not_found",
        )
    return replace(asked, remarks=(*asked.remarks, f"model {checks.shown(given)}: answered by {hub.name}"))


def check_texts(hub: Hub, *texts: Any) -> None:
    """Raise ApiError for texts that are too long together."""
    count = sum(len(text) for text in texts if isinstance(text, str))
    if count > hub.settings.max_text:
        raise refused(f"the texts have {count} characters; {hub.settings.max_text} are taken together", "prompt")


def check_drawn(hub: Hub, options: Mapping[str, Any], n: int = 1) -> None:
    """Raise ApiError for more pixels or steps than the server allows; what is no number is refused by the library."""
    settings, (width, height) = hub.settings, (options.get("width"), options.get("height"))
    sides = [side for side in (width, height) if isinstance(side, int)]
    if len(sides) == 2 and n * sides[0] * sides[1] > settings.max_pixels:
        raise refused(
            f"{n} pictures of {width} x {height} pixels are asked for; {settings.max_pixels} pixels are drawn for a"
            " request at most",
            "size",
        )
    check_most(options, "num_timesteps", settings.max_steps)
    check_most(options, "max_think_tokens", settings.max_tokens)


def check_written(hub: Hub, options: Mapping[str, Any]) -> None:
    """Raise ApiError for a longer answer than the server allows."""
    check_texts(hub, *(options.get("stop") or ()))
    check_most(options, "max_tokens", hub.settings.max_tokens + 1)  # the start token is counted, too


def check_most(options: Mapping[str, Any], name: str, most: int) -> None:
    value = options.get(name)
    if isinstance(value, int) and value > most:
        raise refused(f"{name} is {checks.shown(value)}; this server allows {most} at most", name)


def preset_of(own: Mapping[str, Any]) -> str:
    """The preset of a request; without one the model's settings, else the official notebook's, as in the library's
    calls."""
    return checks.text("preset", own.get("preset", presets.MODEL))
