"""`serve`: the model behind HTTP, with a page to try it."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bagel_rt.cli.arguments import add_model_arguments, open_model, path_argument
from bagel_rt.errors import EngineUnavailableError
from bagel_rt.serve.settings import ServeSettings, read_keys

LIMITS = (  # fields of ServeSettings, and what they are
    ("workers", int, "N", "requests computed at the same time"),
    ("max_queue", int, "N", "requests that may wait beside them; one more is answered 429"),
    ("max_body", int, "BYTES", "of a request"),
    ("max_pixels", int, "N", "of all pictures of a request together, sent or drawn"),
    ("max_text", int, "N", "characters of all texts of a request together"),
    ("max_images", int, "N", "pictures sent in a request"),
    ("max_tokens", int, "N", "of an answer or a plan"),
    ("max_sessions", int, "N", "conversations that are kept"),
    ("session_idle", float, "SECONDS", "after which a conversation that rests is given back"),
    ("drain_seconds", float, "SECONDS", "that running requests get when the server is told to stop"),
)
WAITING_SECONDS = 120.0  # for room in the cache; then the answer is 429


def register(commands) -> None:
    serve = commands.add_parser(
        "serve",
        help="serve a model to many users: OpenAI's routes, and a page to try it",
        description="Serve a model over HTTP until Ctrl-C: the routes of OpenAI's API, sessions, and a page at /.",
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, default=8000, metavar="N", help="0: any free one (default: 8000)")
    serve.add_argument(
        "--api-key-file", type=path_argument, metavar="FILE", help="a key a line; without keys: this machine alone"
    )
    serve.add_argument(
        "--allow-image-urls", nargs="+", default=[], metavar="HOST", help="hosts from which pictures are fetched"
    )
    serve.add_argument("--cors", nargs="+", default=[], metavar="ORIGIN", help="pages of other hosts that may call")
    serve.add_argument(
        "--priority",
        default="tokens",
        choices=["tokens", "pictures", "arrival"],
        help="who comes first where texts and pictures are made at once (default: tokens)",
    )
    serve.add_argument("--strict", action="store_true", help="refuse unknown keys and other models' names")
    add_model_arguments(serve)
    group = serve.add_argument_group("limits")
    for name, kind, metavar, text in LIMITS:
        value = getattr(ServeSettings, name)
        words = f"{text} (default: {value:g})" if isinstance(value, float) else f"{text} (default: {value})"
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value, metavar=metavar, help=words)
    serve.set_defaults(run=run_serve)


def run_serve(args: argparse.Namespace) -> None:
    try:
        from bagel_rt.serve.running import serve
    except ModuleNotFoundError as error:
        raise EngineUnavailableError(
            f"serve needs the package {error.name}, which is not installed: pip install 'bagel-rt[serve]'"
        ) from None
    settings = _settings(args)
    # what is computed at once may need more pages than there are: then some of it waits, rather than fails
    args.queue_length, args.queue_seconds = settings.workers, WAITING_SECONDS

    def listening(address: str) -> None:
        who = "with an API key" if settings.keys else "this machine alone: there is no API key"
        print(f"bagel-rt: {address} ({who})", file=sys.stderr)

    with _log_on_stderr():
        serve(lambda: open_model(args), settings, args.host, args.port, listening)


def _settings(args: argparse.Namespace) -> ServeSettings:
    return ServeSettings(
        keys=() if args.api_key_file is None else read_keys(args.api_key_file),
        image_hosts=tuple(host.lower() for host in args.allow_image_urls),
        origins=tuple(args.cors),
        strict=args.strict,
        **{name: getattr(args, name) for name, *_ in LIMITS},
    )


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Within the block a line for each request, and the server's warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    loggers = {logging.getLogger("bagel_rt.serve"): logging.INFO, logging.getLogger("uvicorn.error"): logging.WARNING}
    for logger, level in loggers.items():
        logger.setLevel(level)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
