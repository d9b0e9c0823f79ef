"""Pictures are fetched from allowed hosts alone, and never from a private network."""

from __future__ import annotations

import http.server
import threading

import pytest

from bagel_rt.serve import fetching
from bagel_rt.serve.failures import ApiError
from bagel_rt.serve.settings import ServeSettings

PICTURE = b"the bytes of a picture"


@pytest.fixture(scope="module")
def host():
    """A web server of this machine: /picture, /moved to it, /inside to another host's address, /long."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            moved = {"/moved": "/picture", "/inside": "http://169.254.169.254/secret", "/round": "/round"}
            self.send_response(302 if self.path in moved else 200 if self.path != "/gone" else 404)
            if self.path in moved:
                self.send_header("Location", moved[self.path])
            self.end_headers()
            self.wfile.write(PICTURE * (1000 if self.path == "/long" else 1))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def public(monkeypatch):
    """This machine counts as a public one, so that there is something to fetch from."""
    real = fetching.is_public
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1" or real(address))


ALLOWED = ServeSettings(image_hosts=("127.0.0.1", "169.254.169.254", "localhost"), max_body=5000)


@pytest.mark.parametrize("path", ["/picture", "/moved"])
def test_a_picture_of_an_allowed_host_is_fetched(host, public, path):
    assert fetching.fetch(host + path, ALLOWED) == PICTURE


@pytest.mark.parametrize(
    "path, words",
    [("/inside", "private network"), ("/round", "redirects"), ("/long", "more than 5000 bytes"), ("/gone", "404")],
)
def test_what_an_allowed_host_may_not_lead_to_is_refused(host, public, path, words):
    with pytest.raises(ApiError, match=words):
        fetching.fetch(host + path, ALLOWED)


def test_an_allowed_name_of_a_private_address_is_refused(host):
    with pytest.raises(ApiError, match="private network"):
        fetching.fetch(host + "/picture", ALLOWED)


@pytest.mark.parametrize(
    "address", ["http://example.org/x.png", "ftp://127.0.0.1/x", "http://user@127.0.0.1/x", "http://[::1", "http://"]
)
def test_other_hosts_and_other_kinds_of_addresses_are_refused(address):
    with pytest.raises(ApiError):
        fetching.fetch(address, ALLOWED)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "::1", "fe80::1", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::"],
)  # fmt: skip
def test_addresses_of_this_machine_and_of_private_networks_are_not_public(address):
    assert not fetching.is_public(address)
    assert fetching.is_public("93.184.215.14")


def test_without_allowed_hosts_nothing_is_fetched(live):
    wanted = {"prompt": "make it green", "images": ["https://example.org/x.png"]}
    answer = live.post("/v1/images/edits", wanted)
    assert answer.status_code == 400
    assert "--allow-image-urls" in answer.json()["error"]["message"]
