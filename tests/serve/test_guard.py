"""Who may ask, how much, how slowly; what waits, what is cancelled, and how a server ends."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib

import httpx2
import pytest
from live_server import STEPS, Lent, data_url, serving, soon

import bagel_rt
from bagel_rt.cli import main
from bagel_rt.errors import EngineError, QueueTimeout
from bagel_rt.events import Step
from bagel_rt.serve.failures import as_api_error

DRAW = {"prompt": "a red circle", "seed": 3, "num_timesteps": STEPS}
LONG = {"prompt": "a red circle", "seed": 3, "num_timesteps": 1000}


def test_a_request_that_the_model_has_no_room_for_beside_others_is_told_to_come_again():
    answer = as_api_error(QueueTimeout("waited for 2 s"))
    assert (answer.status, answer.body["error"]["code"]) == (429, "queue_full")
    assert int(answer.headers["Retry-After"]) >= 1


def test_a_queue_that_is_full_answers_429_and_says_when_to_come_again(nano):
    with serving(lambda: Lent(nano), workers=1, max_queue=1) as live:
        with live.http.stream("POST", "/v1/images/generations", json={**LONG, "stream": True, "progress": True}) as one:
            lines = one.iter_lines()
            next(lines)
            threading.Thread(target=lambda: live.post("/v1/images/generations", DRAW), daemon=True).start()
            assert soon(lambda: live.hub.desk._inside == 2)
            refused = httpx2.post(live.url + "/v1/images/generations", json=DRAW)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["code"] == "queue_full"
        assert live.rests()
        assert 'bagel_rt_refused_total{why="queue full"} 1.0' in live.get("/metrics").text


def test_an_answer_of_several_writes_does_not_wait_until_the_first_is_acknowledged(live):
    """Linux acknowledges after 40 ms, and with Nagle's algorithm the second write waits for that."""
    seconds = []
    for _ in range(20):
        began = time.monotonic()
        assert live.get("/health").status_code == 200
        seconds.append(time.monotonic() - began)
    assert sorted(seconds)[5] < 0.03, seconds  # the first are acknowledged at once, and a busy machine delays some


def test_while_the_model_is_loaded_health_answers_and_requests_get_503(nano):
    opened = threading.Event()

    def slowly():
        opened.wait(30)
        return Lent(nano)

    with serving(slowly, wait=False) as live:
        assert soon(lambda: live.get("/health").status_code == 200)
        assert live.get("/ready").status_code == 503
        refused = live.post("/v1/images/generations", DRAW)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
        opened.set()
        assert soon(lambda: live.get("/ready").status_code == 200)
        assert live.post("/v1/images/generations", DRAW).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_cancels_its_work_within_a_step(live, nano, stream):
    gone = live.hub.meters.cancelled._value.get()
    free = nano.free_tokens
    client = httpx2.Client(base_url=live.url, timeout=0.5)
    with pytest.raises(httpx2.TimeoutException):
        client.post("/v1/images/generations", json={**LONG, "stream": stream})
    client.close()
    steps = live.hub.meters.steps._value.get()
    assert live.rests(5)
    assert live.hub.meters.steps._value.get() - steps < 20
    assert nano.free_tokens == free
    assert soon(lambda: live.hub.meters.cancelled._value.get() == gone + 1)


def test_without_a_key_other_names_and_other_hosts_pages_are_refused(live):
    assert live.get("/v1/models", headers={"Host": "evil.example"}).status_code == 403
    for origin in ("https://evil.example", "null"):
        answer = live.post("/v1/images/generations", DRAW, headers={"Origin": origin})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    assert live.get("/v1/models", headers={"Origin": live.url}).status_code == 200


def test_pages_that_are_named_may_call(nano):
    with serving(lambda: Lent(nano), origins=("https://app.example",)) as live:
        answer = live.get("/v1/models", headers={"Origin": "https://app.example"})
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert live.get("/v1/models", headers={"Origin": "https://evil.example"}).status_code == 403


def test_with_keys_one_of_them_is_needed(nano):
    with serving(lambda: Lent(nano), keys=("first", "sécond")) as live:
        assert live.get("/v1/models").status_code == 401
        assert live.get("/metrics").status_code == 401
        for given, status in (("first", 200), ("firs", 401), ("third", 401)):
            assert live.get("/v1/models", headers={"Authorization": f"Bearer {given}"}).status_code == status
        assert live.get("/health").status_code == 200
        assert live.get("/").status_code == 200


def test_beyond_this_machine_a_key_is_needed(capsys):
    assert main(["serve", "--model", "bagel-nano", "--host", "0.0.0.0", "--port", "0"]) == 2
    assert "--api-key-file" in capsys.readouterr().err


def test_a_file_of_keys_without_any_is_refused(tmp_path, capsys):
    (tmp_path / "keys").write_text("# none yet\n\n")
    assert main(["serve", "--model", "bagel-nano", "--api-key-file", str(tmp_path / "keys")]) == 2
    assert "holds no key" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--model", "bagel-nano", "--port", str(port)]) == 2
    assert f"port {port}" in capsys.readouterr().err


@pytest.fixture(scope="module")
def narrow(nano):
    """A server with small limits."""
    with serving(lambda: Lent(nano), max_body=200_000, max_pixels=10_000, max_text=1000, receive_seconds=1.0,
                 send_seconds=2.0, drain_seconds=1.0) as live:  # fmt: skip
        yield live


def test_a_body_that_is_too_long_is_refused_before_it_is_read(narrow):
    announced = narrow.post("/v1/images/generations", content=b"{" + b" " * 300_000)
    assert announced.status_code == 413
    in_pieces = narrow.post("/v1/images/generations", content=(b" " * 10_000 for _ in range(30)))
    assert in_pieces.status_code == 413
    assert narrow.app.middleware_stack is not None
    assert narrow.post("/v1/images/generations", DRAW).status_code == 200


def bomb(side: int) -> bytes:
    """A small PNG of side * side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * (side // 8 + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_picture_that_unpacks_to_too_many_pixels_is_refused_by_its_header(narrow, live):
    for server, side in ((narrow, 4000), (live, 30_000)):
        picture = bomb(side)
        assert len(picture) < 200_000
        answer = server.post("/v1/images/edits", {"prompt": "x", "images": [data_url(picture)]})
        assert answer.status_code == 400
        assert "pixels" in answer.json()["error"]["message"]


def test_pixels_are_counted_over_all_pictures_of_a_request(narrow, circle):
    wanted = {"prompt": "x", "num_timesteps": STEPS, "images": [data_url(circle)] * 3}
    assert "together" in narrow.post("/v1/images/edits", wanted).json()["error"]["message"]


@pytest.mark.parametrize(
    "picture", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"]
)
def test_what_is_no_picture_is_refused(live, picture):
    answer = live.post("/v1/images/edits", data={"prompt": "x"}, files={"image": picture})
    assert answer.status_code == 400
    assert "picture" in answer.json()["error"]["message"]


def test_long_texts_are_refused(narrow):
    assert narrow.post("/v1/images/generations", {"prompt": "x" * 1001}).status_code == 400
    talk = {"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 600}] * 2}]}
    assert "1200 characters" in narrow.post("/v1/chat/completions", talk).json()["error"]["message"]


def raw(live, data: bytes) -> socket.socket:
    host, port = live.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(data)
    return connection


HEAD = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\n"


def test_headers_and_bodies_that_do_not_arrive_are_given_up(narrow):
    began = time.monotonic()
    headers = [raw(narrow, sent) for sent in (b"", HEAD + b"X: y") for _ in range(10)]
    bodies = [raw(narrow, HEAD + b"Content-Length: 100\r\n\r\n{") for _ in range(20)]
    again = raw(narrow, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"200" in again.recv(20)
    again.sendall(HEAD)
    assert all(b"408" in one.recv(200) for one in bodies)
    assert all(one.recv(200) == b"" for one in headers)
    while again.recv(1000):
        pass
    assert time.monotonic() - began < 8
    for one in (*headers, *bodies, again):
        one.close()
    assert narrow.get("/health").status_code == 200


def test_a_flood_of_headers_is_refused(live):
    answer = b""
    with raw(live, HEAD) as connection, contextlib.suppress(ConnectionError):
        for i in range(3000):
            connection.sendall(b"X-%d: %s\r\n" % (i, b"y" * 100))
        answer = connection.recv(100)
    assert answer[:12] in (b"", b"HTTP/1.1 400")
    assert live.get("/health").status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"seed": ' + b"9" * 10_000 + b"}", b'"text"', b"null"]
)
def test_what_is_no_json_object_is_a_400(live, body):
    for path in ("/v1/images/generations", "/v1/chat/completions"):
        assert live.post(path, content=body, headers={"Content-Type": "application/json"}).status_code == 400


def test_neither_prompts_nor_pictures_are_logged_and_every_request_is_one_line(live, caplog, circle):
    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "bagel_rt.serve.access"]

    with caplog.at_level(logging.DEBUG):
        live.post("/v1/images/generations?prompt=zebra", {**DRAW, "prompt": "a zebra", "zebra": 1})
        live.post("/v1/images/edits", {"prompt": "a zebra", "images": ["zebra"]})
        live.get("/zebra")
        soon(lambda: len(lines()) == 3)  # a line is written once its reply is sent
    assert len(lines()) == 3
    ours = [record.getMessage() for record in caplog.records if record.name.startswith(("bagel_rt", "uvicorn"))]
    assert "zebra" not in "".join(ours)


class Failing(Lent):
    """A model whose engine fails in the middle of a picture, as long as it is told to."""

    failing = True

    def stream(self, *args, **kwargs):
        for event in self._bagel.stream(*args, **kwargs):
            if self.failing and isinstance(event, Step) and event.done == 2:
                raise EngineError("planted: the engine fell over")
            yield event


def test_an_engine_that_fails_is_told_and_after_three_times_in_a_row_the_server_is_not_ready(nano):
    model = Failing(nano)
    with serving(lambda: model) as live:
        for _ in range(3):
            assert live.get("/ready").status_code == 200
            failed = live.post("/v1/images/generations", DRAW)
            assert (failed.status_code, failed.json()["error"]["code"]) == (500, "engine_error")
        assert "3 times in a row" in live.get("/ready").json()["why"]
        streamed = live.post("/v1/images/generations", {**DRAW, "stream": True})
        assert "event: error" in streamed.text
        model.failing = False
        assert live.post("/v1/images/generations", DRAW).status_code == 200
        assert live.get("/ready").status_code == 200


class Mistaken(Lent):
    def stream(self, items, **_):
        raise ZeroDivisionError(items[0])


def test_a_mistake_of_ours_is_a_500_that_tells_nothing_of_the_request(nano, caplog):
    with serving(lambda: Mistaken(nano)) as live:
        answer = live.post("/v1/images/generations", {"prompt": "a " + "secret"})
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert "ZeroDivisionError" in caplog.text
        assert "secret" not in "".join(record.getMessage() for record in caplog.records)
        assert live.rests()


def test_sigterm_finishes_what_runs_and_takes_nothing_new(tmp_path):
    command = [sys.executable, "-m", "bagel_rt", "serve", "--model", "bagel-nano", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--backend", "onnxruntime"], stderr=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stderr is not None
    url = next(line for line in process.stderr if "http://" in line).split()[1].rstrip("/")
    assert soon(lambda: _ready(url), 60)
    found = []
    wanted = {**DRAW, "num_timesteps": 150}
    drawing = threading.Thread(target=lambda: found.append(httpx2.post(url + "/v1/images/generations", json=wanted,
                                                                       timeout=60)))  # fmt: skip
    drawing.start()
    assert soon(lambda: "bagel_rt_running 1.0" in httpx2.get(url + "/metrics").text)
    process.send_signal(signal.SIGTERM)
    assert soon(lambda: not _ready(url))
    drawing.join(60)
    assert found[0].status_code == 200
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in told


def _ready(url: str) -> bool:
    try:
        return httpx2.get(url + "/ready").status_code == 200
    except httpx2.HTTPError:
        return False


def test_a_model_that_cannot_be_loaded_ends_the_command(tmp_path, capsys):
    assert main(["serve", "--model", str(tmp_path), "--port", "0"]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_nothing_of_the_room_is_imported_by_the_library():
    code = "import sys, bagel_rt.cli; bagel_rt.load; print([m for m in sys.modules if m in ('fastapi', 'uvicorn')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.stdout.strip() == "[]"
    assert bagel_rt.__version__


def test_every_answer_has_an_id_and_is_not_sniffed(live):
    answer = live.get("/health")
    assert len(answer.headers["x-request-id"]) == 16
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert live.get("/nowhere").json()["error"]["message"].startswith("no such address")
    assert live.http.put("/v1/images/generations", json={}).status_code == 405


def test_metrics_count_what_was_done(live):
    live.post("/v1/images/generations", DRAW)
    text = live.get("/metrics").text
    for name in (
        "steps_total",
        "pictures_total",
        "queue_seconds_count",
        "cache_free_tokens",
        "resident_bytes",
        "ready 1",
    ):
        assert f"bagel_rt_{name}" in text
    assert 'bagel_rt_requests_total{route="/v1/images/generations",status="200"}' in text


def test_the_models_route_names_the_model(live):
    assert [one["id"] for one in live.get("/v1/models").json()["data"]] == ["bagel-nano"]
    assert live.get("/v1/models/bagel-nano").json()["id"] == "bagel-nano"
    assert live.get("/v1/models/other").status_code == 404


def test_the_list_of_routes_shows_every_option(live):
    text = live.get("/docs").text
    assert "num_inference_steps" in text
    assert "<script" not in text
    assert io.StringIO(text).read().count("<h2>") >= 6
