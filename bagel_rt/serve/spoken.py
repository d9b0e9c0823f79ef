"""The input of a response: texts, messages with pictures, pictures drawn before; and whether one is to be drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bagel_rt.options import checks
from bagel_rt.serve.asking import unwrapped
from bagel_rt.serve.failures import refused
from bagel_rt.serve.messages import items_of
from bagel_rt.serve.pictures_in import PictureReader

TOOL = "image_generation"


def inputs_of(given: Any, reader: PictureReader) -> list[Any]:
    """Texts and pictures of `input`: a text, or a list of messages and of calls that drew a picture."""
    if isinstance(given, str):
        return [text] if (text := unwrapped(given)) else []
    if not isinstance(given, list):
        raise refused(f"input is {checks.shown(given)}; a text or a list of messages is expected", "input")
    return [item for one in given for item in _inputs(one, reader)]


def _inputs(one: Any, reader: PictureReader) -> list[Any]:
    if not isinstance(one, Mapping):
        raise refused(f"an item of input is {checks.shown(one)}; an object is expected", "input")
    kind = one.get("type", "message")
    if kind == f"{TOOL}_call":
        return [reader.image(one.get("result"), "input")]
    if kind == "reasoning":  # an earlier answer's thought, which its text does not need
        return []
    if kind != "message":
        allowed = f"message, reasoning, {TOOL}_call"
        raise refused(f"an item of input has type {checks.shown(kind)}; allowed: {allowed}", "input")
    return items_of([one], reader)


def tool_of(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """The options of the image_generation tool where a picture is to be drawn, None where a text is to be written.

    Naming the tool asks for a picture, unless tool_choice is "none": the model does not choose between the two.
    """
    tools, choice = body.get("tools") or [], body.get("tool_choice") or "auto"
    if not isinstance(tools, list) or not all(isinstance(one, Mapping) for one in tools):
        raise refused(f"tools is {checks.shown(tools)}; a list of objects is expected", "tools")
    others = [one.get("type") for one in tools if one.get("type") != TOOL]
    if others:
        raise refused(f"a tool of type {checks.shown(others[0])}; {TOOL} is the only one there is", "tools")
    if choice == "none" or not tools:
        return None
    found = {key: value for key, value in tools[0].items() if key not in ("type", "model", "action")}
    mask = found.pop("input_image_mask", None)
    return found if mask is None else {**found, "mask": mask}
