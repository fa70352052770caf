"""The page in a real browser: a picture chosen, an object watched, its file fetched; nothing asked of elsewhere."""

import socket
import threading

import pytest

from benchmarks.browser import Traffic
from tests.serve.conftest import png, wait_until

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")

from usd.serve.service import make_service

pytestmark = pytest.mark.slow


@pytest.fixture
def address(tmp_path, make_queue):
    uvicorn = pytest.importorskip("uvicorn")
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_service(make_queue(tmp_path)), log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize("width", [1400, 390])
def test_a_picture_is_made_into_an_object_on_the_page(browser, address, tmp_path, width):
    (tmp_path / "my duck.png").write_bytes(png(64, 64))
    page = browser.new_page(viewport={"width": width, "height": 844})
    traffic = Traffic(page)
    page.goto(address)
    page.set_input_files("#picture", str(tmp_path / "my duck.png"))
    page.wait_for_selector("#recipe option:text-is('usd-patch-mini')", state="attached")
    page.click("#make")
    page.wait_for_selector("article[data-state=done]", timeout=30_000)
    assert page.inner_text("article h2") == "my duck"
    assert page.locator("article a", has_text="Report").count() == 1
    sentence = " ".join(["<img src=x onerror=alert(1)>", *["a red car and"] * 60, "a hat"])
    page.fill("#sentence", sentence)
    page.click("summary")
    page.fill("#overrides", "mode=wait")
    page.click("#make")
    page.click("article[data-state=running] button:has-text('Cancel')")
    page.wait_for_selector("article[data-state=cancelled] button:has-text('Go on')")
    title = page.locator("article[data-state=cancelled] h2")
    assert title.text_content() == sentence and title.evaluate("h2 => h2.clientHeight") < 100
    assert traffic.beyond(address) == [] and traffic.errors == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


DROP = """([name, type, bytes]) => {
  const held = new DataTransfer();
  held.items.add(new File([new Uint8Array(bytes)], name, { type }));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: held, bubbles: true }));
}"""


def test_the_recipes_listed_are_those_of_what_was_dropped(browser, address):
    """A mesh is known by its name, whether it is dropped before the picture of it or after."""
    page = browser.new_page()
    page.goto(address)
    recipe = lambda name: page.wait_for_selector(f"#recipe option:text-is('{name}')", state="attached")  # noqa: E731
    recipe("usd-text-to-3D-mini")
    page.evaluate(DROP, ["cube.glb", "", list(b"glTF")])
    recipe("usd-improve-mini")
    assert page.inner_text("#hint").startswith("cube.glb: drop a picture of it")
    page.evaluate(DROP, ["cube.png", "image/png", list(png(8, 8))])
    page.wait_for_selector("#with:text-is('with cube.glb')")
    recipe("usd-improve-mini")
    page.click("#clear")
    recipe("usd-text-to-3D-mini")
    page.evaluate(DROP, ["cube.png", "image/png", list(png(8, 8))])
    recipe("usd-patch-mini")
    assert page.locator("#recipe option:text-is('usd-improve-mini')").count() == 0
    page.close()


def test_a_refusal_is_said_on_the_page_and_another_browser_shows_the_same_jobs(browser, address):
    page = browser.new_page()
    page.goto(address)
    page.click("#make")
    page.wait_for_selector("#problem:has-text('both are missing')")
    page.fill("#sentence", "a red car")
    page.click("#make")
    page.close()
    other = browser.new_page()
    other.goto(address)
    other.wait_for_selector("article[data-state=done]", timeout=30_000)
    assert other.inner_text("article h2") == "a red car"
    other.close()
