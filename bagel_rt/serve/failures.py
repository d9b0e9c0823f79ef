"""Errors as OpenAI's clients expect them, in our words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from bagel_rt.errors import BagelError, CacheFullError, EngineError, InputError, OutOfDeviceMemoryError, QueueFull
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.options.text_options import TextOptions

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
OPTIONS = {one.name for options in (ImageOptions, TextOptions) for one in fields(options)} | {"preset", "images"}


class ApiError(BagelError):
    """An answer that is a refusal. `param` names the field of the request that it is about."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def refused(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: what the caller can mend."""
    return ApiError(400, message, param=param, code=code)


def as_api_error(error: BaseException) -> ApiError:
    """The answer to whatever went wrong. Of errors that are not ours nothing is told: they may hold anything."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFull):
        return ApiError(429, str(error), code="queue_full", headers={"Retry-After": "10"})
    if isinstance(error, CacheFullError | OutOfDeviceMemoryError):
        return ApiError(503, str(error), code="out_of_memory", headers={"Retry-After": "10"})
    if isinstance(error, InputError):
        return refused(str(error), param=_param(str(error)))
    if isinstance(error, BagelError):
        return ApiError(500, str(error), code="engine_error" if isinstance(error, EngineError) else None)
    return ApiError(500, f"an error inside of the server: {type(error).__name__}; its log says more", code="internal")


def _param(message: str) -> str | None:
    """The option that a message begins with, or names as unknown."""
    found = re.match(r"(?:unknown option ')?(\w+)", message)
    return found[1] if found and (found[1] in OPTIONS or message.startswith("unknown option")) else None
