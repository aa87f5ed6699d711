"""The chat page in headless Chromium: a reply streams in, stops, survives a reload; errors show.

Needs Debian's chromium and chromium-driver; without them the tests are skipped, but with CI=true
they fail: `.ci/run` installs both.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from csaq_runtime.server.page import PAGE
from tests.server.conftest import Server, running

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--window-size=900,800",
)  # fmt: skip
Browser = webdriver.Chrome


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        if os.environ.get("CI") == "true":
            pytest.fail("chromium and chromium-driver are not installed")
        pytest.skip("needs chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def page_server(tiny: Path) -> Iterator[Server]:
    with running(tiny, "-c", 4096, "--api-key", "secret") as started:
        yield started


@pytest.fixture
def page(browser: Browser, page_server: Server) -> Browser:
    browser.get(page_server.url)
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    setting(browser, "key", "secret")
    return browser


def setting(page: Browser, name: str, value: object) -> None:
    page.execute_script(f"document.getElementById('{name}').value = arguments[0]", str(value))


def say(page: Browser, text: str) -> None:
    page.find_element(By.ID, "input").send_keys(text + Keys.ENTER)


def turns(page: Browser, role: str) -> list[str]:
    return [turn.text for turn in page.find_elements(By.CSS_SELECTOR, f".{role} .body")]


def notes(page: Browser) -> list[str]:
    return [note.text for note in page.find_elements(By.CSS_SELECTOR, ".assistant .note")]


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_done(page: Browser) -> bool:
    return page.find_element(By.ID, "send").text == "Send"


def test_a_conversation_streams_and_survives_a_reload(page: Browser) -> None:
    setting(page, "max_tokens", 30)
    setting(page, "temperature", 0)
    say(page, "hello")
    wait_until(lambda: is_done(page) and notes(page)[-1])
    assert turns(page, "user") == ["hello"]
    assert "30 tokens" in notes(page)[0]
    assert "tokens/s" in notes(page)[0]
    say(page, "and then?")
    wait_until(lambda: is_done(page) and len(notes(page)) == 2 and notes(page)[1])
    before = turns(page, "assistant")
    assert all(before)
    page.refresh()
    assert turns(page, "user") == ["hello", "and then?"]
    assert turns(page, "assistant") == before
    page.find_element(By.ID, "clear").click()
    assert turns(page, "user") == []


def test_stop_ends_the_reply_here_and_on_the_server(page: Browser, page_server: Server) -> None:
    setting(page, "temperature", 0)  # this model then never ends by itself
    say(page, "hello")
    wait_until(lambda: turns(page, "assistant") and len(turns(page, "assistant")[0]) > 3)
    page.find_element(By.ID, "send").click()
    wait_until(lambda: is_done(page))
    assert "stopped" in notes(page)[0]
    length = len(turns(page, "assistant")[0])
    key = {"x-api-key": "secret"}
    wait_until(lambda: "csaq_jobs_active 0" in page_server.ask("/metrics", headers=key)[1])
    assert len(turns(page, "assistant")[0]) == length


def test_an_error_is_shown_where_the_reply_would_be(page: Browser) -> None:
    setting(page, "key", "wrong")
    say(page, "hello")
    wait_until(lambda: is_done(page) and turns(page, "assistant")[0])
    assert "API key" in turns(page, "assistant")[0]
    setting(page, "key", "secret")
    setting(page, "max_tokens", 5)
    say(page, "again")
    wait_until(lambda: is_done(page) and notes(page) and "5 tokens" in notes(page)[-1])
    assert turns(page, "user") == ["again"]


def test_what_a_model_writes_is_text_and_never_runs(page: Browser) -> None:
    reply = "<think>hm</think><img src=x onerror='window.hit=1'> **bold** `code`\n```js\n1 < 2\n```"
    page.execute_script(
        "messages = [{role: 'user', content: 'x'}, {role: 'assistant', content: arguments[0]}];"
        "redraw()",
        reply,
    )
    body = page.find_element(By.CSS_SELECTOR, ".assistant .body")
    assert "<img src=x" in body.text
    assert body.find_element(By.TAG_NAME, "strong").text == "bold"
    assert body.find_element(By.CSS_SELECTOR, "pre code").text == "1 < 2"
    assert body.find_element(By.TAG_NAME, "summary").text == "Reasoning"
    assert page.execute_script("return window.hit === undefined")
    assert not body.find_elements(By.TAG_NAME, "img")


def test_the_page_needs_nobody_else_and_breaks_none_of_its_rules(
    page: Browser, page_server: Server
) -> None:
    loaded = page.execute_script("return performance.getEntries().map(entry => entry.name)")
    assert all(n.startswith(page_server.url) for n in loaded if "://" in n)
    severe = [line["message"] for line in page.get_log("browser") if "ecurity" in line["message"]]
    assert not severe
    html = PAGE.read_text()
    assert "http://" not in html
    assert "https://" not in html
    connection = page_server.connect()
    connection.request("GET", "/")
    policy = connection.getresponse().headers["content-security-policy"]
    connection.close()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
