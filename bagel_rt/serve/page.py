"""The page at `/`, and the files it consists of."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from bagel_rt.serve.failures import ApiError
from bagel_rt.serve.hub import Hub

FOLDER = Path(__file__).parent / "static"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = (  # nothing from other hosts, nothing written into the page itself; pictures come as data
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def routes(hub: Hub) -> APIRouter:
    """The page's routes; they are in no API document."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page() -> Response:
        return _file("index.html")

    @router.get("/static/{name}")
    async def file(name: str) -> Response:
        return _file(name)

    return router


def _file(name: str) -> Response:
    found = {path.name: path for path in FOLDER.iterdir()}.get(name)  # a name that is there, never a path
    if found is None or found.suffix not in KINDS:
        raise ApiError(404, "no such file of the page")
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
    return Response(found.read_bytes(), media_type=f"{KINDS[found.suffix]}; charset=utf-8", headers=headers)
