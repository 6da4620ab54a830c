"""One browser for all tests here, in which each person logs in once. Each step leaves a picture in var/browser."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from editor import Editor
from playwright.sync_api import Browser, BrowserContext
from workplace import ROOT, Workplace

PICTURES = ROOT / "var" / "browser"
WINDOW = {"width": 1400, "height": 900}


def pytest_collection_modifyitems(items):
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.integration)
            item.add_marker(pytest.mark.timeout(300))  # a browser that hangs holds everything up


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if call.when == "call":
        item.failed_in_call = report.failed


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the browser. Where there is none, tests skip; on a machine of continuous integration they fail."""
    import chromium as finder

    path = finder.find()
    if path is None and os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(finder.HOW_TO_GET)
    if path is None:
        pytest.skip(finder.HOW_TO_GET)
    return path


@pytest.fixture(scope="session")
def browser(chromium) -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, timeout=120_000)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def browser_context(browser, label_studio) -> BrowserContext:
    """Windows of the browser in which the demo's user is logged in."""
    return logged_in(browser, label_studio.url, label_studio.username, label_studio.password)


@pytest.fixture(scope="session")
def second_context(browser, label_studio, second_login) -> BrowserContext:
    """Windows with cookies of their own, in which a second annotator is logged in."""
    return logged_in(browser, label_studio.url, second_login.username, second_login.password)


def logged_in(browser: Browser, url: str, username: str, password: str) -> BrowserContext:
    context = browser.new_context(viewport=WINDOW)
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(f"{url}/user/login/")
    page.fill("input[name=email]", username)
    page.fill("input[name=password]", password)
    page.click("button[type=submit]")
    page.wait_for_url(lambda address: "/user/login" not in address, wait_until="commit")
    page.close()
    return context


@pytest.fixture
def editor(request, browser_context, label_studio) -> Iterator[Editor]:
    """The labeling screen; a test that fails leaves a last picture and what the browser complained about."""
    with screen_of(request.node, browser_context, label_studio.url) as screen:
        yield screen


@pytest.fixture
def second_editor(request, second_context, label_studio) -> Iterator[Editor]:
    """The labeling screen of the second annotator."""
    with screen_of(request.node, second_context, label_studio.url, "second") as screen:
        yield screen


@contextmanager
def screen_of(test: pytest.Item, context: BrowserContext, url: str, whose: str = "") -> Iterator[Editor]:
    folder = PICTURES / re.sub(r"\W+", "-", test.name).strip("-") / whose
    shutil.rmtree(folder, ignore_errors=True)
    page = context.new_page()
    screen = Editor(page, url, folder)
    yield screen
    if getattr(test, "failed_in_call", False):
        screen.picture("failed")
        (folder / "complaints.txt").write_text("\n".join(screen.complaints))
    page.close()


@pytest.fixture(scope="session")
def fake(workplaces) -> Workplace:
    """The backend that draws exactly what it is asked for, in projects whose tasks open without a prediction."""
    return replace(workplaces("fake"), predicts=False, projects={})


@pytest.fixture(scope="session")
def nano(workplaces) -> Workplace:
    return workplaces("nano")


@pytest.fixture(scope="session")
def saved(label_studio) -> Callable[[int], list[dict]]:
    """The id of an annotation to its result items, read back through the API."""
    return lambda number: label_studio.api("GET", f"/api/annotations/{number}/")["result"]


@pytest.fixture(scope="session")
def foreign_picture(files) -> Iterator[str]:
    """The address of a picture that the browser can show, from a server that our backend was not told of."""
    content = (files / "made" / "upright.png").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/picture.png"
    server.shutdown()
