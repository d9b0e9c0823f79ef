"""The page, in headless Chromium: draw, edit, ask, cancel, mistakes, reload; nothing in the console."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from live_server import Lent, opened, serving
from PIL import Image

from bagel_rt.serve.drawing import Form, encoded

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
             "--no-first-run", "--disable-dev-shm-usage", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def visit(browser: Any, url: str, expected: tuple[str, ...] = (), **how: Any) -> Iterator[Any]:
    """The page in a new profile; nothing may stand in its console but what is expected, no other host be asked."""
    context = browser.new_context(**how)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.set_default_timeout(20_000)
    page.goto(url)
    try:
        yield page
        assert [line for line in said if not any(words in line for words in expected)] == []
        assert [one for one in asked if not one.startswith((url, "data:", "blob:"))] == []
    finally:
        context.close()


@pytest.fixture
def page(browser, live) -> Iterator[Any]:
    with visit(browser, live.url) as page:
        page.locator("#model", has_text="bagel-nano").wait_for()
        page.fill("#steps", "14")
        yield page


def draw(page: Any, prompt: str) -> None:
    page.fill("#prompt", prompt)
    page.click("#go")
    page.locator("#told", has_text="done").wait_for()


def test_a_picture_sharpens_while_it_is_drawn_and_can_be_downloaded(page):
    page.fill("#seed", "5")
    page.fill("#prompt", "a red ring")
    page.evaluate("""() => { window.seen = new Set();
        new MutationObserver(() => window.seen.add(document.getElementById("picture").src)).observe(
            document.getElementById("picture"), { attributes: true, attributeFilter: ["src"] }); }""")
    page.click("#go")
    page.locator("#told", has_text="done").wait_for()
    assert page.evaluate("window.seen.size") > 4
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "bagel-5.png"
    assert Image.open(download.value.path()).size == (64, 64)
    assert "seed 5, 64x64" in page.inner_text("#caption")


DROP = """([base64, name]) => {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type: "image/png" }));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


def test_a_dropped_picture_brings_its_settings_back(page, nano):
    record = {"seed": 77, "num_timesteps": 9, "cfg_text_scale": 5.5, "negative_prompt": "blue"}
    result = nano.generate("a grün ring", **record)
    page.evaluate(DROP, [encoded(result.image, Form(), result), "ring.png"])
    page.locator("#told", has_text="used again").wait_for()
    values = {
        one: page.input_value(f"#{one}") for one in ("prompt", "seed", "steps", "text-scale", "negative", "width")
    }
    assert values == {"prompt": "a grün ring", "seed": "77", "steps": "9", "text-scale": "5.5", "negative": "blue",
                      "width": "64"}  # fmt: skip
    page.click("#go")
    page.locator("#told", has_text="done").wait_for()
    drawn = opened(page.get_attribute("#picture", "src"))
    assert drawn.convert("RGB").tobytes() == result.image.tobytes()


def test_a_drawn_picture_and_a_dropped_one_are_edited(page, circle):
    draw(page, "a red ring")
    page.click("#again")
    assert page.locator("#thumbs img").count() == 1
    page.evaluate(DROP, [base64.b64encode(circle).decode(), "circle.png"])
    page.locator("#thumbs img").nth(1).wait_for()
    page.locator("#thumbs button").first.click()
    page.locator("#thumbs img").nth(1).wait_for(state="detached")
    draw(page, "make the circle green")
    assert page.locator("#history button").count() == 2


def painted(page: Any, stroke: Any) -> Image.Image:
    """The mask that is sent with an edit, after a stroke was painted."""
    sent = []
    page.on("request", lambda request: sent.append(request.post_data_json) if "edits" in request.url else None)
    stroke()
    draw(page, "make the circle green")
    return opened(sent[-1]["mask"])


def test_only_what_was_painted_over_is_changed(page, circle):
    page.click("#tab-edit")
    page.evaluate(DROP, [base64.b64encode(circle).decode(), "circle.png"])
    page.click("#masking summary")
    box = page.locator("#mask").bounding_box()
    left, middle = box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2

    def stroke() -> None:
        page.mouse.move(left, middle)
        page.mouse.down()
        page.mouse.move(left, middle + box["height"] * 0.2)
        page.mouse.up()

    mask = np.asarray(painted(page, stroke).getchannel("A")) < 128
    given = np.asarray(Image.open(io.BytesIO(circle)).convert("RGB"))
    assert mask.shape == given.shape[:2]
    assert mask[32, 16]
    assert not mask[:, 40:].any()
    drawn = np.asarray(opened(page.get_attribute("#picture", "src")).convert("RGB"))
    assert np.array_equal(drawn[~mask], given[~mask])
    assert not np.array_equal(drawn, given)
    page.click("#mask-clear")
    assert page.evaluate("maskUrl()") is None


def test_a_part_is_chosen_by_the_keyboard_too(page, circle):
    page.click("#tab-edit")
    page.evaluate(DROP, [base64.b64encode(circle).decode(), "circle.png"])
    page.click("#masking summary")

    def stroke() -> None:
        page.focus("#mask")
        page.keyboard.press("Shift+ArrowUp")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")

    mask = np.asarray(painted(page, stroke).getchannel("A")) < 128
    assert mask[26, 20:32].all()
    assert not mask[45:].any()


def test_it_thinks_in_words_and_pictures_and_can_be_stopped(page, circle, live):
    page.click("#tab-reason")
    page.set_input_files("#reason-files", {"name": "circle.png", "mimeType": "image/png", "buffer": circle})
    page.locator("#reason-thumbs img").wait_for()
    page.fill("#question", "what colour is the circle?")
    page.fill("#reason-steps", "5")
    page.fill("#most-pictures", "1")
    page.fill("#reason-seed", "1")
    page.select_option("#reason-style", "zebra-cot")
    page.click("#think-it")
    page.locator("#reason-told", has_text="done").wait_for(timeout=120_000)
    assert page.locator("#thoughts img.drawn").count() == 1
    assert page.locator("#thoughts li").count() == 4  # a text, a picture, a text, the answer
    assert page.inner_text("#thoughts li.final").startswith("Answer: ")
    page.fill("#reason-steps", "900")
    page.click("#think-it")
    page.locator("#reason-told", has_text="drawing").wait_for()
    page.click("#reason-stop")
    page.locator("#reason-told", has_text="cancelled").wait_for()
    assert live.rests(5)


def test_a_picture_is_asked_about_drawn_on_and_taken_back(page, circle):
    page.click("#tab-chat")
    page.set_input_files("#chat-files", {"name": "circle.png", "mimeType": "image/png", "buffer": circle})
    page.locator("#chat-thumbs img").wait_for()
    page.fill("#say", "what colour is the circle?")
    page.press("#say", "Enter")
    page.locator("#log .answered", has_text="red").wait_for()
    page.locator("#ask:enabled").wait_for()
    page.fill("#say", "make the circle green")
    page.click("#draw-it")
    page.locator("#log .answered img.drawn").wait_for()
    page.locator("#undo:enabled").wait_for()
    page.click("#undo")
    page.locator("#log .answered img.drawn").wait_for(state="detached")
    assert page.locator("#log li").count() == 2
    page.click("#fresh")
    page.locator("#log li").first.wait_for(state="detached")


def test_what_is_drawn_is_cancelled_at_once(page, live):
    page.fill("#steps", "1000")
    page.fill("#prompt", "a red ring")
    page.click("#go")
    page.locator("#told", has_text="drawing").wait_for()
    page.click("#stop")
    page.locator("#told", has_text="cancelled").wait_for()
    assert live.rests(5)
    page.fill("#steps", "5")
    draw(page, "a red ring")


def test_a_mistake_is_told_in_the_servers_words_and_the_page_goes_on(browser, live):
    with visit(browser, live.url, ("status of 400",)) as page:
        page.fill("#prompt", "a red ring")
        page.fill("#width", "4096")
        page.fill("#height", "32")
        page.click("#go")
        page.locator("#wrong", has_text="the nearest is").wait_for()
        page.fill("#width", "48")
        page.fill("#steps", "5")
        draw(page, "a red ring")
        assert not page.is_visible("#wrong")


def test_a_page_that_is_loaded_again_works_and_gives_its_conversation_back(page, live):
    page.click("#tab-chat")
    page.fill("#say", "a red ring")
    page.click("#ask")
    page.locator("#undo:enabled").wait_for()
    page.reload()
    page.locator("#model", has_text="bagel-nano").wait_for()
    page.fill("#steps", "5")
    draw(page, "a red ring")


def test_everything_is_reached_by_the_keyboard(page):
    page.focus("#tab-draw")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-edit", "aria-selected") == "true"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "drop"
    page.keyboard.press("ArrowRight")
    page.focus("#tab-edit")
    page.keyboard.press("ArrowLeft")
    page.fill("#prompt", "a red ring")
    page.press("#prompt", "Control+Enter")
    page.locator("#told", has_text="done").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(browser, live, scheme):
    with visit(browser, live.url, viewport={"width": 360, "height": 740}, color_scheme=scheme) as page:
        for tab in ("draw", "edit", "chat", "reason"):
            page.click(f"#tab-{tab}")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
        dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (dark == "rgb(25, 23, 20)") == (scheme == "dark")


def test_a_server_with_a_key_asks_for_it(browser, nano):
    with serving(lambda: Lent(nano), keys=("sesame",)) as live:
        with visit(browser, live.url, ("status of 401",)) as page:
            page.locator("#key-dialog[open]").wait_for()
            page.fill("#key", "sesame")
            page.press("#key", "Enter")
            page.locator("#model", has_text="bagel-nano").wait_for()


def test_the_page_may_load_nothing_from_elsewhere_and_run_nothing_inline(live):
    answer = live.get("/")
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "style=" not in answer.text
    assert "<script>" not in answer.text
    assert live.get("/static/../app.py").status_code == 404
    assert live.get("/static/%2e%2e%2fapp.py").status_code == 404
    assert io.StringIO(live.get("/static/page.js").text).readline().startswith("//")
