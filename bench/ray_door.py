"""How much passes the door of a cluster?  python bench/ray_door.py [--small] [--out FILE.json]

A door (bagel_rt/serve/ray_door.py) in front of two replicas which compute nothing: streams of short events, so many at
once, and answers of the size of a picture. Client, proxy, door and replicas are on this machine, which has to be
otherwise idle. Needs the extra `ray`. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2

from bagel_rt.serve.answers import sse
from bagel_rt.serve.settings import ServeSettings
from bench.timing import finish, machine

EVENT = {"choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}], "id": "c" * 33}
AT_ONCE = (1, 4, 16)
PICTURE = 4_200_000  # bytes: a PNG of 1024 x 1024 in base64, at most
PORT = 8123


class Replica:
    """Answers at once: /events/N is a stream of N events, anything else a body of a picture's size."""

    async def answer(self, call: Any) -> AsyncIterator[dict[str, Any]]:
        path = call.scope["path"]
        streams = path.startswith("/events/")
        kind = b"text/event-stream" if streams else b"application/json"
        yield {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}
        if streams:
            event = sse(EVENT)
            for _ in range(int(path.rpartition("/")[2])):
                yield {"type": "http.response.body", "body": event, "more_body": True}
        yield {"type": "http.response.body", "body": b"" if streams else b"x" * PICTURE, "more_body": False}


async def events_a_second(count: int, events: int) -> float:
    """Of all streams together."""
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{PORT}", timeout=300) as http:

        async def read() -> int:
            async with http.stream("GET", f"/events/{events}") as answer:
                return sum([line.startswith("data: ") async for line in answer.aiter_lines()])

        began = time.perf_counter()
        seen = sum(await asyncio.gather(*(read() for _ in range(count))))
        return seen / (time.perf_counter() - began)


async def pictures_a_second(count: int, each: int) -> float:
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{PORT}", timeout=300) as http:

        async def read() -> None:
            for _ in range(each):
                await http.get("/picture")

        began = time.perf_counter()
        await asyncio.gather(*(read() for _ in range(count)))
        return count * each / (time.perf_counter() - began)


def measured(small: bool) -> dict[str, Any]:
    events, pictures = (50, 1) if small else (2000, 20)
    asyncio.run(events_a_second(1, events))
    found = {f"events, {n} streams": round(asyncio.run(events_a_second(n, events))) for n in AT_ONCE}
    return {**found, "pictures, 4 at once": round(asyncio.run(pictures_a_second(4, pictures)), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few events: shows that the benchmark runs")
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    args = parser.parse_args()
    import ray
    from ray import serve

    from bagel_rt.serve.ray_door import Door

    where = tempfile.mkdtemp(prefix="bagel-rt-", dir="/tmp")  # sockets' paths are short
    ray.init(num_cpus=2, object_store_memory=200 * 2**20, include_dashboard=False, _temp_dir=where, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": PORT})
        how: Any = {"ray_actor_options": {"num_cpus": 0}, "max_ongoing_requests": 64}
        stub = serve.deployment(Replica).options(num_replicas=2, **how).bind()
        serve.run(Door.options(**how).bind(stub, ServeSettings()))  # type: ignore[attr-defined]
        results = measured(args.small)
    finally:
        serve.shutdown()
        ray.shutdown()
        shutil.rmtree(where, ignore_errors=True)
    finish({"question": "events and pictures a second through a door", "results": results, **machine()}, args.out)


if __name__ == "__main__":
    main()
