"""A server with adapters: a request names one, by a field or as a part of the model's name."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from checkpoints import of, pair, write_adapter
from live_server import Lent, opened, serving

import bagel_rt

DRAWN = {"prompt": "a boat", "size": "64x64", "num_timesteps": 3, "seed": 1}


@pytest.fixture(scope="module")
def bagel(small_artefact, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    loras = {}
    for seed, name in enumerate(("style", "faces")):
        drawing = of("language_model.model.layers.0.mlp_moe_gen.up_proj", *pair(128, 64, seed))
        writing = of("language_model.model.layers.1.self_attn.v_proj", *(5 * t for t in pair(32, 64, seed)))
        loras[name] = write_adapter(folder / name, drawing | writing).folder
    with bagel_rt.load(small_artefact, "onnxruntime", adapters=loras) as bagel:
        yield bagel


@pytest.fixture(scope="module")
def server(bagel):
    with serving(lambda: Lent(bagel), workers=8) as live:
        yield live


def pixels(answer) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(opened(answer.json()["data"][0]["b64_json"]))


def drawn(bagel, adapter) -> np.ndarray:
    how = {"height": 64, "width": 64, "num_timesteps": 3, "seed": 1}
    return np.asarray(bagel.generate("a boat", adapter=adapter, **how).image)


def test_a_request_names_an_adapter_by_a_field_or_in_the_model_s_name(server, bagel):
    name = bagel.manifest.name
    for sent, adapter in (
        ({}, None),
        ({"adapter": "style"}, "style"),
        ({"adapter": {"style": 0.5, "faces": 1}}, {"style": 0.5, "faces": 1}),
        ({"model": f"{name}:faces"}, "faces"),
        ({"model": f"{name}:faces", "adapter": "style"}, "style"),
        ({"extra_body": {"adapter": "faces=0.5"}}, {"faces": 0.5}),
    ):
        answer = server.post("/v1/images/generations", {**DRAWN, **sent})
        np.testing.assert_array_equal(pixels(answer), drawn(bagel, adapter), err_msg=str(sent))
        assert "X-Bagel-Warning" not in answer.headers
    assert not np.array_equal(drawn(bagel, "style"), drawn(bagel, "faces"))


def test_requests_at_once_have_their_own_adapter(server, bagel):
    wanted = {adapter: drawn(bagel, adapter) for adapter in (None, "style", "faces")}
    asked = [[*wanted][i % 3] for i in range(12)]

    def request(adapter):
        return pixels(server.post("/v1/images/generations", {**DRAWN, **({"adapter": adapter} if adapter else {})}))

    with ThreadPoolExecutor(8) as pool:
        for adapter, found in zip(asked, pool.map(request, asked), strict=True):
            np.testing.assert_array_equal(found, wanted[adapter], err_msg=str(adapter))


def test_chats_and_conversations_take_an_adapter_when_they_begin(server, bagel):
    model, said = f"{bagel.manifest.name}:style", "what is it?"
    wanted = bagel.ask(said, adapter="style", max_tokens=6).text
    assert wanted != bagel.ask(said, max_tokens=6).text
    chat = {"messages": [{"role": "user", "content": said}], "max_tokens": 5}
    for sent in ({"model": model}, {"adapter": "style"}):
        answer = server.post("/v1/chat/completions", {**chat, **sent}).json()
        assert answer["choices"][0]["message"]["content"] == wanted
    made = server.post("/v1/sessions", {"adapter": "style"}).json()
    turn = {"text": said, "output": "text", "max_tokens": 5}
    assert server.post(f"/v1/sessions/{made['id']}/turns", turn).json()["text"] == wanted
    refused = server.post(f"/v1/sessions/{made['id']}/turns", {**turn, "adapter": "faces"})
    assert refused.status_code == 400
    assert "chosen once for a session" in refused.json()["error"]["message"]
    first = server.post("/v1/responses", {"model": model, "input": said, "max_output_tokens": 5}).json()
    assert first["output"][-1]["content"][0]["text"] == wanted
    on = {"input": "and?", "previous_response_id": first["id"], "max_output_tokens": 3}
    assert server.post("/v1/responses", {**on, "model": model}).status_code == 200
    other = server.post("/v1/responses", {**on, "adapter": "faces"})
    assert "adapter is chosen when a conversation begins" in other.json()["error"]["message"]


def test_the_list_of_models_has_each_adapter_and_an_unknown_one_is_refused(server, bagel):
    name = bagel.manifest.name
    listed = [model["id"] for model in server.get("/v1/models").json()["data"]]
    assert listed == [name, f"{name}:style", f"{name}:faces"]
    assert server.get(f"/v1/models/{name}:faces").json()["id"] == f"{name}:faces"
    assert server.get(f"/v1/models/{name}:other").status_code == 404
    refused = server.post("/v1/images/generations", {**DRAWN, "adapter": "other"})
    assert refused.status_code == 400
    assert "adapter is 'other'; loaded: style, faces" in refused.json()["error"]["message"]
