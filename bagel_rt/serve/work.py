"""The work of requests: so many at a time on threads, so many waiting, and none for a client that went away."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from bagel_rt.serve.failures import ApiError
from bagel_rt.serve.meters import Meters

Work = Generator[Any, None, None]
END = object()


class Desk:
    """Takes jobs in, up to a number, and hands them to its workers in the order in which they came."""

    def __init__(self, workers: int, max_queue: int, meters: Meters):
        self._workers, self._most, self._meters = workers, workers + max_queue, meters
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="bagel-rt-serve")
        self._lock = threading.Lock()
        self._inside = self._running = 0
        self._usual = 1.0  # seconds that a job takes, a moving mean

    def enter(self) -> None:
        """A place for one job more. Raises ApiError 429 when all are taken."""
        with self._lock:
            if self._inside >= self._most:
                self._meters.refused.labels("queue full").inc()
                seconds = max(1, math.ceil(self._usual * self._inside / self._workers))
                raise ApiError(
                    429,
                    f"the queue is full: {self._inside} requests are worked on or wait; try again in {seconds} seconds",
                    code="queue_full",
                    headers={"Retry-After": str(seconds)},
                )
            self._inside += 1
            self._show()

    def leave(self) -> None:
        """The place of a job that ended, or never began."""
        with self._lock:
            self._inside -= 1
            self._show()

    @property
    def empty(self) -> bool:
        """Whether nothing is worked on and nothing waits."""
        return self._inside == 0

    def submit(self, run: Callable[[], None]) -> Future:
        return self._pool.submit(self._timed, run)

    def close(self) -> None:
        """Take nothing more. Jobs that are cancelled end by themselves."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _timed(self, run: Callable[[], None]) -> None:
        began = time.monotonic()
        self._run_more(1)
        try:
            run()
        finally:
            self._usual += 0.2 * (time.monotonic() - began - self._usual)
            self._run_more(-1)

    def _run_more(self, more: int) -> None:
        with self._lock:
            self._running += more
            self._show()

    def _show(self) -> None:
        self._meters.running.set(self._running)
        self._meters.waiting.set(max(0, self._inside - self._running))


class Job:
    """One request's work: a generator that is prepared, advanced on a worker, and read here, in the event loop.

    Cancelled, it ends at its next event, and what it holds is given back.
    """

    def __init__(self, desk: Desk, meters: Meters):
        desk.enter()
        self._desk, self._meters = desk, meters
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Any] = asyncio.Queue()
        self._cancelled = threading.Event()
        self._placed, self._asked = True, time.monotonic()

    async def begin(self, prepare: Callable[[], Work]) -> None:
        """Prepare the work on a thread, which checks the request, and queue it. Raises what `prepare` raises."""
        preparing = asyncio.ensure_future(asyncio.to_thread(prepare))
        try:
            self._work = await asyncio.shield(preparing)
        except asyncio.CancelledError:  # the client went away; the thread cannot be stopped, its place is still taken
            preparing.add_done_callback(lambda done: (done.cancelled() or done.exception(), self._leave()))
            raise
        except BaseException:
            self._leave()
            raise
        self._future = self._desk.submit(self._run)
        self._future.add_done_callback(lambda _: self._leave())

    async def __aiter__(self) -> AsyncIterator[Any]:
        """What the work yields, then the error it ended with, if any."""
        while (item := await self._items.get()) is not END:
            if isinstance(item, BaseException):
                raise item
            yield item

    def cancel(self) -> None:
        """End the work at its next event; work that still waits does not begin. Afterwards this does nothing."""
        self._cancelled.set()
        if hasattr(self, "_future"):
            self._future.cancel()

    def _leave(self) -> None:
        if self._placed:
            self._placed = False
            self._desk.leave()

    def _run(self) -> None:
        self._meters.queued.observe(time.monotonic() - self._asked)
        try:
            with contextlib.closing(self._work) as work:
                if not self._cancelled.is_set():
                    self._advance(work)
        except BaseException as error:
            self._give(error)
        self._give(END)

    def _advance(self, work: Work) -> None:
        for item in work:
            if self._cancelled.is_set():
                return
            if item is not None:
                self._give(item)

    def _give(self, item: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop was closed
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
