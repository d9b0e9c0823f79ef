"""What a server allows and how it works: the one place where these defaults are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bagel_rt.errors import InputError
from bagel_rt.files.text_files import read_text

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class ServeSettings:
    """Limits and ways of a server. The command line takes its defaults from here."""

    keys: tuple[str, ...] = ()  # API keys; without any, only this machine is answered
    workers: int = 8  # requests computed at the same time
    max_queue: int = 64  # requests that wait beside them; one more is answered 429
    max_body: int = 64 * 2**20  # bytes of a request
    max_bodies: int = 512 * 2**20  # bytes of all requests that are being received
    max_pixels: int = 2**25  # of all pictures of a request together, sent or drawn
    max_text: int = 100_000  # characters of all texts of a request together
    max_images: int = 16  # pictures sent in a request
    max_pictures: int = 10  # pictures drawn for a request
    max_tokens: int = 8192  # tokens of an answer or a plan
    max_steps: int = 1000  # points of a picture's schedule
    image_hosts: tuple[str, ...] = ()  # hosts from which pictures may be fetched by their address
    origins: tuple[str, ...] = ()  # web pages of other hosts that may call (CORS)
    hosts: tuple[str, ...] = ()  # names, beside this machine's own, under which a server without a key is called
    strict: bool = False  # refuse unknown keys and model names instead of naming them in a warning header
    max_sessions: int = 64  # kept conversations; the one that rested longest makes room
    session_idle: float = 600.0  # seconds after which a conversation that rests is given back
    receive_seconds: float = 60.0  # in which a request's headers, and then its body, must have arrived
    send_seconds: float = 60.0  # in which a client must take a piece of its answer
    drain_seconds: float = 60.0  # that running requests get to finish when the server is told to stop
    place: str = ""  # names this server among several, in the ids of what it keeps

    def __post_init__(self) -> None:
        for name in ("workers", "max_body", "max_pixels", "max_text", "max_pictures", "max_tokens", "max_sessions"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; a number of 1 or more is expected")
        if self.max_queue < 0:
            raise InputError(f"max_queue is {self.max_queue}; a number of 0 or more is expected")
        if not all(key.strip() for key in self.keys):
            raise InputError("an API key is empty; leave the keys out to serve this machine alone")


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys of a file: a line each, # begins a remark. Raises InputError for a file without any."""
    lines = [line.partition("#")[0].strip() for line in read_text(path).splitlines()]
    keys = tuple(line for line in lines if line)
    if not keys:
        raise InputError(f"{path}: holds no key; write one a line")
    return keys
