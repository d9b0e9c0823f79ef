"""Does a server lose or mix up anything?  python bench/soak.py [--clients 64] [--minutes 60] [--out FILE.json]

Clients draw and ask on bagel-nano at once, streamed or not; one in five goes away in the middle, one in twenty sends
what is malformed, one in twenty reads slowly, one in fifty is cut off while it sends. Every answer that ends is
compared with the one that the library gives for its prompt and seed, bit for bit. Ends in one JSON line; anything lost,
wrong or left behind is an exit code of 1.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import random
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
from PIL import Image

import bagel_rt
from bagel_rt.serve.app import create_app
from bagel_rt.serve.running import Server, bound, configured
from bagel_rt.serve.settings import ServeSettings
from bench.timing import finish, machine

STEPS, SEEDS = 8, (1, 2, 3)
PROMPTS = ("a red ring", "a blue square left of a yellow triangle", "three green stars on a black background")
QUESTIONS = ("what colour is the ring?", "what is in this picture?", "how many shapes are there?")
CANCELLED, MALFORMED, SLOW, CUT = 0.2, 0.05, 0.05, 0.02
LONG, MOST_DRIFT = 600.0, 0.01  # seconds from which on the memory must have settled, and how well
MALFORMED_BODIES: tuple[Any, ...] = (b"{", b"\xff", {"prompt": 3}, {"prompt": "x", "num_timesteps": 1}, {"size": "big"})


@dataclass
class Expected:
    """What the library answers, by prompt and seed, and by question."""

    pictures: dict[tuple[str, int], bytes]
    answers: dict[str, str]
    shown: str  # the data URL of the picture that is asked about


@dataclass
class Tally:
    """What became of the requests."""

    outcomes: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)  # MiB, once a second


def expected(bagel: Any) -> Expected:
    drawn = {(p, s): bagel.generate(p, seed=s, num_timesteps=STEPS).image for p in PROMPTS for s in SEEDS}
    ring = drawn[PROMPTS[0], 1]
    ring.save(stream := io.BytesIO(), "PNG")
    answers = {question: bagel.ask(question, ring, max_tokens=20).text for question in QUESTIONS}
    url = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    return Expected({key: image.tobytes() for key, image in drawn.items()}, answers, url)


class Client:
    """One user, who asks for one thing after another until the time is over."""

    def __init__(self, url: str, number: int, known: Expected, tally: Tally):
        self._url, self._known, self._tally = url, known, tally
        self._random = random.Random(number)
        self._http = httpx2.AsyncClient(base_url=url, timeout=300)

    async def run(self, ends: float) -> None:
        async with self._http:
            while time.monotonic() < ends:
                began = time.monotonic()
                try:
                    outcome = await self._one()
                except httpx2.HTTPError as error:  # no answer at all
                    outcome = self._told(False, "", f"lost: {type(error).__name__} {error}")
                self._tally.outcomes[outcome] += 1
                if outcome.startswith("answered"):
                    self._tally.seconds.append(time.monotonic() - began)

    async def _one(self) -> str:
        chance = self._random.random()
        for share, act in ((MALFORMED, self._malformed), (CUT, self._cut), (CANCELLED, self._cancelled)):
            if chance < share:
                return await act()
            chance -= share
        slowly = chance < SLOW
        return await self._draw(slowly) if self._random.random() < 0.5 else await self._ask(slowly)

    async def _malformed(self) -> str:
        body = self._random.choice(MALFORMED_BODIES)
        how: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
        answer = await self._http.post("/v1/images/generations", **how)
        return self._told(answer.status_code == 400, "malformed", f"malformed: {answer.status_code}")

    async def _cut(self) -> str:
        """A connection that is killed while its body is being sent."""
        host, port = self._url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{")
        await writer.drain()
        writer.transport.abort()
        return "cut off"

    async def _cancelled(self) -> str:
        body = {"prompt": PROMPTS[0], "num_timesteps": 200, "stream": True, "progress": True}
        async with self._http.stream("POST", "/v1/images/generations", json=body) as answer:
            async for _ in answer.aiter_lines():
                break
        return "went away" if answer.status_code == 200 else f"went away from {answer.status_code}"

    async def _draw(self, slowly: bool) -> str:
        prompt, seed = self._random.choice(PROMPTS), self._random.choice(SEEDS)
        body = {"prompt": prompt, "seed": seed, "num_timesteps": STEPS}
        found = await self._answer("/v1/images/generations", body, slowly)
        if isinstance(found, int):
            return f"refused {found}"
        event = found[-1]
        text = event.get("b64_json") or event["data"][0]["b64_json"]
        pixels = Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB").tobytes()
        return self._told(pixels == self._known.pictures[prompt, seed], "answered picture", f"{prompt}, seed {seed}")

    async def _ask(self, slowly: bool) -> str:
        question = self._random.choice(QUESTIONS)
        parts = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": self._known.shown}}]
        body = {"messages": [{"role": "user", "content": parts}], "max_tokens": 19}
        found = await self._answer("/v1/chat/completions", body, slowly)
        if isinstance(found, int):
            return f"refused {found}"
        choices = [choice for event in found for choice in event.get("choices", [])]
        text = "".join((one.get("message") or one["delta"]).get("content") or "" for one in choices)
        return self._told(text == self._known.answers[question], "answered text", f"{question} {text}")

    async def _answer(self, path: str, body: dict[str, Any], slowly: bool) -> list[dict[str, Any]] | int:
        """The events of a stream, or the whole answer as one; the status of a refusal."""
        if not slowly and self._random.random() < 0.5:
            answer = await self._http.post(path, json=body)
            return [answer.json()] if answer.status_code == 200 else await self._rest(answer)
        events = []
        async with self._http.stream("POST", path, json={**body, "stream": True}) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    events.append(json.loads(line.removeprefix("data: ")))
                if slowly:
                    await asyncio.sleep(0.05)
        return events if answer.status_code == 200 else await self._rest(answer)

    async def _rest(self, answer: httpx2.Response) -> int:
        await asyncio.sleep(min(float(answer.headers.get("retry-after", 0)), 2.0))
        return answer.status_code

    def _told(self, right: bool, outcome: str, what: str) -> str:
        if not right:
            self._tally.wrong.append(what)
        return outcome if right else "wrong"


async def load(url: str, clients: int, seconds: float, known: Expected, tally: Tally) -> None:
    async def watch() -> None:
        while True:
            tally.resident.append(psutil.Process().memory_info().rss / 2**20)
            await asyncio.sleep(min(1.0, seconds / 20))

    watching = asyncio.create_task(watch())
    ends = time.monotonic() + seconds
    await asyncio.gather(*(Client(url, number, known, tally).run(ends) for number in range(clients)))
    watching.cancel()


def held() -> dict[str, int]:
    """What a process could leave behind."""
    return {"threads": threading.active_count(), "files": len(os.listdir("/proc/self/fd"))}


def soak(clients: int, seconds: float) -> dict[str, Any]:
    """Serve and load; returns what was found."""
    with bagel_rt.load("bagel-nano", backend="onnxruntime") as bagel:
        known, tally, free = expected(bagel), Tally(), bagel.free_tokens
        asyncio.run(serve(bagel, clients, min(2.0, seconds / 4), known, Tally()))  # what is opened once, is opened
        before = held()
        asyncio.run(serve(bagel, clients, seconds, known, tally))
        after = held()
        lost_tokens = free - bagel.free_tokens
    half = tally.resident[len(tally.resident) // 2 :]
    first, last = (sum(part) / len(part) for part in (half[: len(half) // 4 + 1], half[-len(half) // 4 - 1 :]))
    ordered = sorted(tally.seconds)
    return {
        "clients": clients, "seconds": seconds, "requests": sum(tally.outcomes.values()),
        "outcomes": dict(tally.outcomes.most_common()), "wrong": tally.wrong[:10], "cache_tokens_lost": lost_tokens,
        "left": {name: after[name] - before[name] for name in after},
        "memory_drift_second_half": round(last / first - 1, 4),
        "latency_seconds": {f"p{p}": round(ordered[len(ordered) * p // 100], 3) for p in (50, 95, 99) if ordered},
    }  # fmt: skip


async def serve(bagel: Any, clients: int, seconds: float, known: Expected, tally: Tally) -> None:
    """A server on a thread, and the load on it."""

    class Lent:  # closed by soak(), not by the server
        def __getattr__(self, name: str) -> Any:
            return (lambda: None) if name == "close" else getattr(bagel, name)

    settings = ServeSettings(drain_seconds=10)
    app = create_app(lambda: Lent(), settings)  # type: ignore[arg-type,return-value]
    server, listening = Server(configured(app, settings)), bound("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
    thread.start()
    try:
        while app.state.hub.why_not_ready is not None:
            await asyncio.sleep(0.01)
        await load(address(listening), clients, seconds, known, tally)
        while not app.state.hub.desk.empty:
            await asyncio.sleep(0.01)
    finally:
        server.stop()
        await asyncio.to_thread(thread.join)
        listening.close()


def address(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


def failed(found: dict[str, Any]) -> bool:
    """Whether anything was lost, mixed up or left behind."""
    odd = [name for name in found["outcomes"] if name.startswith("refused 5") or name == "wrong"]
    drifts = found["seconds"] >= LONG and found["memory_drift_second_half"] >= MOST_DRIFT
    return bool(found["wrong"] or odd or drifts or found["cache_tokens_lost"] or max(found["left"].values()) > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = soak(args.clients, args.minutes * 60)
    finish({"machine": machine(), "load": found}, args.out)
    return int(failed(found))


if __name__ == "__main__":
    raise SystemExit(main())
