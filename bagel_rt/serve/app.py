"""The application: routes of one hub behind one guard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from bagel_rt.errors import BagelError
from bagel_rt.serve import chat, generate, images, page, reason, responses, sessions, standing
from bagel_rt.serve.failures import ApiError, as_api_error
from bagel_rt.serve.guard import Guard
from bagel_rt.serve.hub import Hub
from bagel_rt.serve.kept import Sessions
from bagel_rt.serve.settings import ServeSettings
from bagel_rt.version import __version__

if TYPE_CHECKING:
    from bagel_rt.api import Bagel

log = logging.getLogger("bagel_rt.serve")


def create_app(load: Callable[[], Bagel], settings: ServeSettings | None = None) -> FastAPI:
    """A FastAPI application that serves the model which `load` opens.

    It is loaded on a thread when the application starts; until then model routes answer 503, /health 200 and /ready
    503. The application closes it at its end. `app.state.hub` is what the routes share, `app.state.kept`
    are the conversations.
    """
    hub = Hub(load, settings or ServeSettings())
    kept = Sessions(hub)
    app = FastAPI(
        title="bagel-rt", version=__version__, lifespan=_life(hub, kept), docs_url=None, redoc_url=None,
        description="BAGEL behind the routes of OpenAI's API.",
    )  # fmt: skip
    app.state.hub, app.state.kept = hub, kept
    for part in (images, chat, reason, generate, standing, page):
        app.include_router(part.routes(hub))
    for part in (sessions, responses):
        app.include_router(part.routes(hub, kept))
    _add_handlers(app)
    if hub.settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(hub.settings.origins), allow_methods=["*"], allow_headers=["*"],
            expose_headers=["X-Request-Id", "X-Bagel-Warning", "Retry-After"],
        )  # fmt: skip
    app.add_middleware(Guard, hub=hub)
    return app


def _life(hub: Hub, kept: Sessions) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        hub.start()
        sweeping = asyncio.create_task(_sweep(kept, hub.settings.session_idle / 4))
        yield
        sweeping.cancel()
        await anyio.to_thread.run_sync(hub.close)

    return life


async def _sweep(kept: Sessions, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        await anyio.to_thread.run_sync(kept.sweep)


def _add_handlers(app: FastAPI) -> None:
    async def told(request: Request, error: Exception) -> Response:
        found = as_api_error(error)
        if found.status == 500:
            log.error("%s %s", request.state.request_id, error)
        return JSONResponse(found.body, found.status, headers=found.headers)

    async def of_http(_: Request, error: Any) -> Response:
        found = ApiError(error.status_code, _sentence(error), headers=error.headers)
        return JSONResponse(found.body, found.status, headers=found.headers)

    app.add_exception_handler(BagelError, told)
    app.add_exception_handler(HTTPException, of_http)


def _sentence(error: HTTPException) -> str:
    if error.status_code == 404:
        return "no such address; /docs lists those there are"
    return f"{str(error.detail).lower()}; /docs says what is taken"
