"""Pictures fetched by their address: from named hosts alone, and never from this machine or its network."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from urllib.parse import urljoin, urlsplit

from bagel_rt.serve.failures import refused
from bagel_rt.serve.settings import ServeSettings

REDIRECTS, SECONDS, PIECE = 3, 20.0, 2**16
MOVED = (301, 302, 303, 307, 308)


def fetch(url: str, settings: ServeSettings) -> bytes:
    """The bytes behind an address. Every redirect is checked as the first address is. Raises ApiError 400."""
    ends = time.monotonic() + SECONDS
    for _ in range(REDIRECTS + 1):
        host, address = _checked(url, settings)
        try:
            answer = _get(url, host, address, ends)
            if answer.status not in MOVED:
                return _read(answer, settings.max_body, ends)
            url = urljoin(url, answer.headers.get("location", ""))
        except (OSError, http.client.HTTPException) as seen:
            raise refused(f"the picture at {host} could not be fetched: {type(seen).__name__}", "image_url") from None
    raise refused(f"the picture at {host} is behind more than {REDIRECTS} redirects", "image_url")


def is_public(address: str) -> bool:
    """Whether an address is somewhere on the internet: not private, loopback, link-local, shared, or multicast."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address) and (inner := found.ipv4_mapped or found.sixtofour):
        return is_public(str(inner))
    return found.is_global and not found.is_multicast


def _checked(url: str, settings: ServeSettings) -> tuple[str, str]:
    """(host, the address to connect to). The address that was checked is the one that is used: a name may change."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise refused("a picture's address is not readable", "image_url") from None
    if parts.scheme not in ("http", "https") or not host or parts.username:
        raise refused("a picture's address begins with https://, without a user's name", "image_url")
    if host not in settings.image_hosts:
        allowed = ", ".join(settings.image_hosts)
        how = f"allowed: {allowed}" if allowed else "none is, send it as a data URL (--allow-image-urls names hosts)"
        raise refused(f"pictures are not fetched from {host[:80]!a}; {how}", "image_url")
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, port or 443, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        raise refused(f"no such host: {host[:80]!a}", "image_url") from None
    if not found or not all(is_public(str(one)) for one in found):
        raise refused(f"{host} is an address of a private network, from which nothing is fetched", "image_url")
    return host, str(sorted(found)[0])


def _get(url: str, host: str, address: str, ends: float) -> http.client.HTTPResponse:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connection = http.client.HTTPConnection(host, port, timeout=_left(ends))
    plain = socket.create_connection((address, port), timeout=_left(ends))
    secure = parts.scheme == "https"
    connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host) if secure else plain
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "bagel-rt"})
    return connection.getresponse()


def _read(answer: http.client.HTTPResponse, most: int, ends: float) -> bytes:
    if answer.status != 200:
        raise refused(f"the picture's host answered {answer.status}", "image_url")
    found = bytearray()
    while piece := answer.read(PIECE):
        found += piece
        _left(ends)
        if len(found) > most:
            raise refused(f"the picture at that address has more than {most} bytes", "image_url")
    return bytes(found)


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
