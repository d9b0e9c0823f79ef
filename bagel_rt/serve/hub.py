"""What the routes of one server share: model, settings, desk and meters; and whether requests are taken."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from bagel_rt.errors import EngineError
from bagel_rt.serve.failures import ApiError
from bagel_rt.serve.meters import Meters
from bagel_rt.serve.settings import ServeSettings
from bagel_rt.serve.usage import Counter
from bagel_rt.serve.work import Desk, Job, Work

if TYPE_CHECKING:
    from bagel_rt.api import Bagel

log = logging.getLogger("bagel_rt.serve")
FAILURES = 3  # of the engine, one after another, after which a server is not ready


class Hub:
    """One server's state. `load` opens the model, on a thread of its own, while other routes answer already."""

    def __init__(self, load: Callable[[], Bagel], settings: ServeSettings):
        self.settings, self.meters = settings, Meters()
        self.desk = Desk(settings.workers, settings.max_queue, self.meters)
        self._load, self._bagel, self._counter = load, None, None
        self._failures, self._closing = 0, False
        self.error: BaseException | None = None  # why the model could not be loaded
        self.on_error: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._open, name="bagel-rt-load", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait(self) -> None:
        """Until the model is loaded. Raises what loading raised."""
        self._thread.join()
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Take nothing more, wait for what is being computed, and close the model."""
        self._closing = True
        self._thread.join()
        self.desk.close()
        if self._bagel is not None:
            self._bagel.close()

    @property
    def why_not_ready(self) -> str | None:
        """In words, or None: requests are taken."""
        if self._closing:
            return "the server is being stopped"
        if self.error is not None:
            return "the model could not be loaded; the server's log says why"
        if self._bagel is None:
            return "the model is being loaded"
        if self._failures >= FAILURES:
            return f"the engine failed {self._failures} times in a row; the server's log says how"
        return None

    @property
    def bagel(self) -> Bagel:
        """The model. Raises ApiError 503 while it is being loaded."""
        if self._bagel is None or self._closing:
            self.meters.refused.labels("not loaded").inc()
            raise ApiError(503, f"{self.why_not_ready}; try again", code="not_ready", headers={"Retry-After": "5"})
        return self._bagel

    @property
    def counter(self) -> Counter:
        """Counts the tokens of texts and pictures."""
        if self._counter is None:
            self._counter = Counter(self.bagel.manifest)
        return self._counter

    @property
    def name(self) -> str:
        return self.bagel.manifest.name

    @property
    def names(self) -> list[str]:
        """What a request may name as its model: the model, and the model with each of its adapters."""
        return [self.name, *(f"{self.name}:{adapter}" for adapter in self.bagel.adapters)]

    def job(self) -> Job:
        """A place for a request's work. Raises ApiError 429 and 503."""
        _ = self.bagel
        return Job(self.desk, self.meters)

    def watched(self, work: Work) -> Work:
        """The work, whose engine's failures are counted: one that succeeds ends a row of them."""
        try:
            yield from work
        except EngineError as error:
            self._failures += 1
            log.error("engine failure %d in a row: %s", self._failures, error)
            raise
        self._failures = 0

    def _open(self) -> None:
        try:
            self._bagel = self._load()
        except BaseException as error:
            self.error = error
            self.on_error()
            return
        self.meters.free_tokens.set_function(lambda: self._free_tokens())
        self.meters.ready.set_function(lambda: float(self.why_not_ready is None))

    def _free_tokens(self) -> int:
        return 0 if self._bagel is None or self._closing else self._bagel.free_tokens
