"""Two replicas on one machine behind Ray Serve, through the openai package; one is killed under load."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import psutil
import pytest
from live_server import opened, soon

pytest.importorskip("ray", reason="needs ray, which is large: make ray")
pytestmark = [pytest.mark.slow, pytest.mark.ray]
FEW = {"num_timesteps": 5}
ask = httpx2.Client(timeout=120)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[str]:
    """The address of two replicas of bagel-nano."""
    os.environ["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "60"  # 5 are too few on a machine with other work
    import ray
    from ray import serve

    from bagel_rt.serve.ray import Arguments, app

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = f"/tmp/bagel-rt-ray-{os.getpid()}"  # sockets' paths are short, pytest's folders are not
    ray.init(num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, _temp_dir=where, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(app(Arguments(replicas=2, cpus=0.5, load={"backend": "onnxruntime"}, limits={"workers": 4})))
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()
        shutil.rmtree(where, ignore_errors=True)


@pytest.fixture(scope="module")
def client(cluster) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{cluster}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def place(name: str) -> str:
    return name.partition("_")[2].partition(".")[0]


def replicas() -> list[psutil.Process]:
    """The processes that Ray titled so."""
    mine = psutil.Process().children(recursive=True)
    return [one for one in mine if "ServeReplica:default:Replica" in " ".join(one.cmdline())]


def sessions(cluster: str, count: int) -> list[str]:
    return [ask.post(f"{cluster}/v1/sessions", json={"seed": 1}).json()["id"] for _ in range(count)]


def test_pictures_answers_and_streams_are_those_of_the_library(client, nano):
    made = client.images.generate(model="bagel-nano", prompt="a red ring", extra_body={"seed": 3, **FEW})
    expected = nano.generate("a red ring", seed=3, **FEW).image
    assert opened(made.data[0].b64_json).convert("RGB").tobytes() == expected.tobytes()
    talk = [{"role": "user", "content": "what is a ring?"}]
    pieces = client.chat.completions.create(model="bagel-nano", messages=talk, max_tokens=9, stream=True)
    text = "".join(choice.delta.content or "" for piece in pieces for choice in piece.choices)
    assert text == nano.interleave(["what is a ring?"], "text", max_tokens=10).text


def test_errors_have_openais_shape(client):
    with pytest.raises(openai.BadRequestError, match="nearest"):
        client.images.generate(model="bagel-nano", prompt="a ring", size="50x30")


def test_a_session_and_a_response_reach_the_replica_that_keeps_them(cluster, client):
    kept = sessions(cluster, 12)
    assert len({place(one) for one in kept}) == 2
    for one in kept:
        said = ask.post(f"{cluster}/v1/sessions/{one}/turns", json={"text": "a ring"})
        assert said.json()["turn"] == 1, said.text
    for one in kept:
        assert ask.get(f"{cluster}/v1/sessions/{one}").json()["turns"] == 1
        assert ask.delete(f"{cluster}/v1/sessions/{one}").status_code == 200
    for _ in range(6):
        first = client.responses.create(model="bagel-nano", input="a ring", max_output_tokens=3)
        again = client.responses.create(
            model="bagel-nano", input="and?", max_output_tokens=3, previous_response_id=first.id
        )
        assert place(again.id) == place(first.id)


def test_an_accepted_request_is_answered_though_its_replica_is_killed(cluster, client, nano):
    expected = {seed: nano.generate("a red ring", seed=seed, num_timesteps=20).image.tobytes() for seed in range(3)}

    def drawn(number: int) -> str:
        seed = number % 3
        try:
            made = client.images.generate(
                model="bagel-nano", prompt="a red ring", extra_body={"seed": seed, "num_timesteps": 20}
            )
        except openai.APIStatusError as error:
            return f"error {error.code}" if error.code and error.type else f"shapeless: {error}"
        except openai.APIConnectionError as error:
            return f"no answer: {error.__cause__}"
        right = opened(made.data[0].b64_json).convert("RGB").tobytes() == expected[seed]
        return "right" if right else "wrong"

    kept = sessions(cluster, 12)
    before = {one.pid for one in replicas()}
    assert len(before) == 2
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(drawn, number) for number in range(24)]
        assert soon(lambda: any(one.done() for one in asked), 60)
        os.kill(min(before), signal.SIGKILL)
        outcomes = Counter(one.result() for one in asked)
    assert outcomes["right"] == 24, outcomes
    told = [ask.get(f"{cluster}/v1/sessions/{one}") for one in kept]
    assert {one.status_code for one in told} <= {200, 404, 503}
    lost = [one.json()["error"] for one in told if one.status_code != 200]
    assert lost
    assert all(one["type"] for one in lost)
    assert soon(lambda: len({one.pid for one in replicas()}) == 2, 60)


def test_a_client_that_goes_away_cancels_the_work(cluster):
    turns = f"{cluster}/v1/sessions/{sessions(cluster, 1)[0]}/turns"
    body = {"text": "a ring", "output": "image", "num_timesteps": 1000, "stream": True, "progress": True}
    with ask.stream("POST", turns, json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert ask.post(turns, json={"text": "and"}).status_code == 409
    assert soon(lambda: ask.post(turns, json={"text": "and"}).status_code == 200, 20)


def test_a_stream_whose_replica_is_killed_ends_with_an_error(cluster, client):
    import ray

    name = sessions(cluster, 1)[0]
    body = {"text": "a ring", "output": "image", "num_timesteps": 1000, "stream": True, "progress": True}
    with ask.stream("POST", f"{cluster}/v1/sessions/{name}/turns", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        ray.kill(ray.get_actor(f"SERVE_REPLICA::default#Replica#{place(name)}", namespace="serve"))
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert events[-1]["error"]["code"] == "replica_lost"
    assert events[-1]["error"]["type"] == "server_error"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="m", input="and?", previous_response_id=f"resp_{place(name)}.gone")
