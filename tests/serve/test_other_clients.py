"""LiteLLM and LangChain as clients of a live server; skipped where they are not installed."""

from __future__ import annotations

import pytest
from documents import ROOT, blocks
from live_server import STEPS, data_url, opened

QUESTION = "what colour is the circle?"


@pytest.fixture
def litellm(monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it fetches a list of prices
    return pytest.importorskip("litellm", reason="LiteLLM is not installed")


@pytest.fixture
def langchain():
    return pytest.importorskip("langchain_openai", reason="LangChain is not installed")


@pytest.fixture
def here(live):
    return {"api_base": live.url + "/v1", "api_key": "none"}


def asked(circle):
    return [{"role": "user", "content": [{"type": "text", "text": QUESTION},
                                         {"type": "image_url", "image_url": {"url": data_url(circle)}}]}]  # fmt: skip


def test_litellm_asks_about_a_picture_and_streams(litellm, here, nano, circle):
    expected = nano.ask(QUESTION, circle).text
    whole = litellm.completion(model="openai/bagel-nano", messages=asked(circle), max_tokens=20, **here)
    assert whole.choices[0].message.content == expected
    assert whole.usage.completion_tokens > 0
    pieces = litellm.completion(model="openai/bagel-nano", messages=asked(circle), max_tokens=20, stream=True, **here)
    assert "".join(one.choices[0].delta.content or "" for one in pieces) == expected


def test_litellm_draws(litellm, here, nano):
    how = {"seed": 3, "num_timesteps": STEPS}
    made = litellm.image_generation(model="openai/bagel-nano", prompt="a red ring", extra_body=how, **here)
    drawn = opened(made.data[0]["b64_json"]).convert("RGB")
    assert drawn.tobytes() == nano.generate("a red ring", **how).image.tobytes()


def test_litellm_raises_its_own_errors(litellm, here):
    with pytest.raises(litellm.BadRequestError, match="nearest"):
        litellm.image_generation(model="openai/bagel-nano", prompt="a ring", size="50x30", **here)


def test_langchain_asks_about_a_picture_streams_and_stops(langchain, live, nano, circle):
    expected = nano.ask(QUESTION, circle).text
    chat = langchain.ChatOpenAI(base_url=live.url + "/v1", api_key="none", model="bagel-nano", max_tokens=20)
    assert chat.invoke(asked(circle)).content == expected
    assert "".join(one.content for one in chat.stream(asked(circle))) == expected
    stop = expected[1:3]
    assert chat.invoke(asked(circle), stop=[stop]).content == expected[: expected.index(stop)]


def test_the_documents_lines_run(litellm, langchain, live, circle):
    page = blocks(ROOT / "docs" / "clients.md")
    code = next(block.code for block in page if "import litellm" in block.code)
    names = {"question": asked(circle)[0]["content"]}
    exec(code.replace("http://127.0.0.1:8000", live.url), names)
    assert names["answer"].choices[0].message.content
    assert names["said"].content
