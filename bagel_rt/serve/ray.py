"""A server on a Ray cluster: `serve run bagel_rt.serve.ray:app model=DIR`.

Ray Serve's own proxies, queue, autoscaling and health checks; replicas that keep a model each, behind a door.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import bagel_rt
from bagel_rt.errors import EngineUnavailableError
from bagel_rt.serve.settings import ServeSettings, read_keys

try:
    from pydantic import BaseModel, ConfigDict
    from ray.serve import Application  # pyright: ignore[reportMissingImports]
    from ray.serve.config import RequestRouterConfig  # pyright: ignore[reportMissingImports]

    from bagel_rt.serve.ray_door import Door
    from bagel_rt.serve.ray_replica import Replica
except ModuleNotFoundError as error:
    raise EngineUnavailableError(
        f"a Ray cluster needs the package {error.name}, which is not installed: pip install 'bagel-rt[serve,ray]'"
    ) from None

WAITING_SECONDS = 120.0  # for room in the cache; then the answer is 429
ROUTER: Any = "bagel_rt.serve.ray_door:KeptPlace"
DOOR_REQUESTS = 1024  # that a door passes on at once


class Arguments(BaseModel):
    """What `serve run` takes behind the application's name, as key=value, and a config file under `args`."""

    model_config = ConfigDict(extra="forbid")

    model: str = "bagel-nano"  # a name, or a folder that every machine of the cluster has
    load: dict[str, Any] = {}  # further arguments of bagel_rt.load: backend, arithmetic, cache_tokens, ...
    replicas: int = 1  # at least
    most_replicas: int | None = None  # as many as the queue asks for, up to these
    cpus: float = 1.0  # of a replica
    gpus: float = 0.0  # of a replica
    doors: int = 1  # processes that pass requests on
    api_key_file: str | None = None  # a key a line; every machine of the cluster has it
    limits: dict[str, Any] = {}  # fields of ServeSettings: workers, max_queue, max_pixels, ...


def app(args: Arguments) -> Application:
    """The application of a cluster: doors before replicas."""
    keys = () if args.api_key_file is None else read_keys(Path(args.api_key_file))
    settings = ServeSettings(keys=keys, **args.limits)
    waiting = {"queue_length": settings.workers, "queue_seconds": WAITING_SECONDS}
    own = {} if args.gpus else {"threads": max(1, int(args.cpus))}
    load = partial(bagel_rt.load, args.model, **{**waiting, **own, **args.load})
    replicas = Replica.options(  # pyright: ignore[reportAttributeAccessIssue]
        **_count(args, settings),
        ray_actor_options={"num_cpus": args.cpus, "num_gpus": args.gpus},
        max_ongoing_requests=settings.workers,
        max_queued_requests=settings.max_queue,
        graceful_shutdown_timeout_s=settings.drain_seconds,
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
    ).bind(load, settings)
    door = Door.options(  # pyright: ignore[reportAttributeAccessIssue]
        num_replicas=args.doors, ray_actor_options={"num_cpus": 0}, max_ongoing_requests=DOOR_REQUESTS,
        graceful_shutdown_timeout_s=settings.drain_seconds,
    )  # fmt: skip
    return door.bind(replicas, settings)


def _count(args: Arguments, settings: ServeSettings) -> dict[str, Any]:
    """How many replicas: a number, or as many as keep half of their workers busy."""
    if args.most_replicas is None:
        return {"num_replicas": args.replicas}
    target = max(1.0, settings.workers / 2)
    scaling = {"min_replicas": args.replicas, "max_replicas": args.most_replicas, "target_ongoing_requests": target}
    return {"autoscaling_config": scaling}
