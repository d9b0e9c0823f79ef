"""A batch over a Ray cluster: a model on each of several workers, requests to whoever is free."""

from __future__ import annotations

import argparse
import logging
import math
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bagel_rt.cli.arguments import open_model
from bagel_rt.cli.batch_answers import Answer, answered, checked_images, words_for
from bagel_rt.cli.jsonl_requests import Request
from bagel_rt.errors import EngineUnavailableError, InputError
from bagel_rt.inputs.pictures import open_image

KNOCKING = 10.0  # seconds that a cluster gets to be there
TRIES = 3  # workers that a request may meet its end with, before it is told as failed


class Worker:
    """Runs on a machine of the cluster, and opens the model there with its first call."""

    def __init__(self, args: argparse.Namespace, fingerprint: str):
        self._args, self._fingerprint, self._bagel = args, fingerprint, None

    def ready(self) -> None:
        """Open the model. Raises BagelError, also where it is another model than the batch's."""
        if self._bagel is not None:
            return
        bagel = open_model(self._args)
        if bagel.manifest.fingerprint != self._fingerprint:
            raise InputError(
                f"{self._args.model}: is another model on a machine of the cluster than here; every machine needs the"
                " same folder"
            )
        self._bagel = bagel

    def answer(self, request: Request, images: Sequence[Any]) -> Answer:
        """Do a request whose pictures were read elsewhere."""
        self.ready()
        assert self._bagel is not None
        return answered(self._bagel, request, images)


@contextmanager
def cluster(address: str) -> Iterator[Any]:
    """The package ray, connected to a cluster. Raises BagelError without the package, or without the cluster."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise EngineUnavailableError(
            "--ray needs the package ray, which is not installed: pip install 'bagel-rt[ray]'"
        ) from None
    try:
        _knock(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, namespace="bagel-rt-batch")
    except (OSError, ValueError, RuntimeError) as seen:
        raise InputError(f"no Ray cluster at {address}: {seen}; start one with `ray start --head`") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), KNOCKING).close()


def answers_of(ray: Any, args: argparse.Namespace, fingerprint: str, requests: Sequence[Request]) -> Iterator[Answer]:
    """The answers of a cluster's workers, as they come. Raises BagelError where a worker cannot open the model.

    A worker that dies is started again and its request done once more, perhaps on another machine.
    """
    needs = _needs(args)
    count = min(args.ray_workers or _count(ray, needs), len(requests))
    kind = ray.remote(max_restarts=-1, max_task_retries=TRIES - 1, **needs)(Worker)
    waiting, busy = deque(requests), {}
    for worker in [kind.remote(args, fingerprint) for _ in range(count)]:
        busy[worker.ready.remote()] = (worker, None)
    while waiting or any(request for _, request in busy.values()):
        (done,), _ = ray.wait(list(busy), num_returns=1)
        worker, request = busy.pop(done)
        yield from _taken(ray, done, request)
        yield from _handed_out(worker, waiting, busy)


def _taken(ray: Any, done: Any, request: Request | None) -> Iterator[Answer]:
    """A worker's answer; None: it was getting ready, and errors are the run's."""
    try:
        answer = ray.get(done)
    except ray.exceptions.RayTaskError as seen:
        raise seen.cause from None  # without the other machine's traceback
    except ray.exceptions.RayActorError:
        if request is not None:
            yield Answer(request, error=f"{TRIES} workers died over it, one after another")
        return
    if request is not None:
        yield answer


def _handed_out(worker: Any, waiting: deque[Request], busy: dict[Any, Any]) -> Iterator[Answer]:
    """Give a worker the next request whose pictures are readable; those before it failed."""
    while waiting:
        request = waiting.popleft()
        try:
            images = [open_image(path) for path in checked_images(request)]
        except Exception as error:
            yield Answer(request, error=words_for(error))
            continue
        busy[worker.answer.remote(request, images)] = (worker, request)
        return


def _needs(args: argparse.Namespace) -> dict[str, Any]:
    """What a worker takes of the cluster: a GPU where the engine runs on one, else as many CPUs as it has threads."""
    if args.device != "cpu" or args.backend.startswith("tensorrt"):
        return {"num_gpus": 1}
    return {"num_cpus": args.threads or 1}


def _count(ray: Any, needs: dict[str, Any]) -> int:
    """A worker for each GPU; without them one for each machine, or as many as have their threads named."""
    there = ray.cluster_resources()
    if "num_gpus" in needs:
        return max(1, int(there.get("GPU", 0)))
    machines = sum(node["Alive"] for node in ray.nodes())
    return max(1, math.floor(min(there.get("CPU", 1) / needs["num_cpus"], machines)))
