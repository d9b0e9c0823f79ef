"""Requests made from the server's own OpenAPI document, right ones and wrong ones: none ends in a 500."""

from __future__ import annotations

import warnings

import hypothesis
import pytest
import schemathesis
from live_server import Lent, serving

from bagel_rt.conversation.session import Session
from bagel_rt.errors import InputError
from bagel_rt.remarks import BagelWarning
from bagel_rt.serve.app import create_app

FEW = {"text": {"max_tokens": 3}, "image": {"num_timesteps": 3, "max_think_tokens": 3}}


class Hurried(Lent):
    """The model, for requests with any options: few steps and tokens."""

    def stream(self, items, output="image", **options):
        if max(side for side in (options.get("height"), options.get("width"), 0) if isinstance(side, int)) > 128:
            raise InputError("more than this test draws")
        return self._bagel.stream(items, output, **{**options, **FEW[output]})

    def stream_reason(self, prompt, images, **options):
        few = {"max_tokens": 3, "num_timesteps": 3, "max_pictures": min(1, options["max_pictures"])}
        return self._bagel.stream_reason(prompt, images, **{**options, **few})


@pytest.fixture(scope="module")
def hurried(nano):
    text, image = Session.stream_text, Session.stream_image
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", BagelWarning)
        patch.setattr(Session, "stream_text", lambda self, **given: text(self, **{**given, **FEW["text"]}))
        patch.setattr(Session, "stream_image", lambda self, **given: image(self, **{**given, **FEW["image"]}))
        with serving(lambda: Hurried(nano), max_body=100_000) as live:
            yield live


document = create_app(lambda: None).openapi()  # type: ignore[arg-type,return-value]
document["paths"] = {path: what for path, what in document["paths"].items() if path != "/metrics"}
schema = schemathesis.openapi.from_dict(document)


@schema.parametrize()
@hypothesis.settings(
    max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck), database=None
)
def test_no_request_of_the_document_ends_in_a_500(case, hurried):
    answer = case.call(base_url=hurried.url)
    assert answer.status_code < 500, answer.text


def test_the_document_names_every_route_and_every_option():
    from dataclasses import fields

    from bagel_rt.options.image_options import ImageOptions

    routes = {"/v1/models", "/v1/images/generations", "/v1/images/edits", "/v1/chat/completions", "/v1/responses",
              "/v1/sessions", "/v1/sessions/{name}/turns", "/v1/reason", "/generate", "/health", "/ready"}  # fmt: skip
    assert routes <= set(document["paths"])
    body = document["paths"]["/v1/images/generations"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {one.name for one in fields(ImageOptions)} - set(body["properties"]) == {"noise", "mask"}
