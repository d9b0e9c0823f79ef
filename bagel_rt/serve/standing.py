"""GET routes that say how the server is: /v1/models, /health, /ready, /metrics, /docs."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import HTMLResponse, JSONResponse, Response

from bagel_rt.serve import documents
from bagel_rt.serve.failures import ApiError
from bagel_rt.serve.hub import Hub
from bagel_rt.serve.route_list import route_list


def routes(hub: Hub) -> APIRouter:
    """The routes, for a hub."""
    router = APIRouter(tags=["the server"])
    began = int(time.time())

    def model(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": began, "owned_by": "bagel-rt"}

    @router.get("/v1/models", responses=documents.ERRORS)
    async def models() -> dict[str, Any]:
        """The model that is served, and the model with each of its adapters."""
        return {"object": "list", "data": [model(name) for name in hub.names]}

    @router.get("/v1/models/{name}", responses=documents.ERRORS)
    async def one_model(name: str) -> dict[str, Any]:
        """One of them, by its name."""
        if name not in hub.names:
            raise ApiError(404, f"no such model here; {', '.join(hub.names)} is", param="model", code="model_not_found")
        return model(name)

    @router.get("/health")
    async def health() -> dict[str, str]:
        """200 as long as the process answers."""
        return {"status": "ok"}

    @router.get("/ready", responses=documents.ERRORS)
    async def ready() -> Response:
        """200 when requests are taken, 503 and why when not."""
        why = hub.why_not_ready
        return JSONResponse({"ready": why is None, "why": why}, 200 if why is None else 503)

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(generate_latest(hub.meters.registry), media_type=CONTENT_TYPE_LATEST)

    @router.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return HTMLResponse(
            route_list(request.app.openapi()), headers={"Content-Security-Policy": "default-src 'none'"}
        )

    return router
