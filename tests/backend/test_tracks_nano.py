"""Tracking with the embedded model, through the app: a generated clip as pages, and clicks of others meanwhile."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pytest
from clip_desk import CONFIGS, HEIGHT, WIDTH, Desk, by_page, point, typed
from PIL import Image, ImageDraw
from prompting import edited
from reading import pixels, sentences

from backend.app import close_services, create_app

NANO = Path(__file__).parents[2] / "x2sam" / "checkpoints" / "nano" / "model.safetensors"
PAGES, RADIUS = 6, 14

pytestmark = pytest.mark.skipif(not NANO.is_file(), reason="x2sam/checkpoints/nano is not there")


def middle(page):
    return 40 + 12 * page, HEIGHT / 2


def disc(page):
    rows, cols = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    x, y = middle(page)
    return (cols - x) ** 2 + (rows - y) ** 2 < RADIUS**2


def picture(page):
    image = Image.new("RGB", (WIDTH, HEIGHT), (40, 90, 40))
    x, y = middle(page)
    ImageDraw.Draw(image).ellipse((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), fill=(210, 60, 40))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def nano():
    from x2sam.inference.engine import Engine

    return Engine.load("nano", device="cpu")


@pytest.fixture
def desk(nano, settings, pictures):
    for page in range(PAGES):
        pictures.files[f"small/{page}.png"] = picture(page)
    app = create_app(settings, lambda: nano)
    app.extensions["x2sam"].engines.wait(60)
    yield Desk(app.test_client(), (CONFIGS / "video_frames_brush.xml").read_text(encoding="utf-8"))
    nano.close, closing = lambda: None, nano.close  # it is shared by the tests of this file
    close_services(app.extensions["x2sam"])
    nano.close = closing


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def click_on_the_disc(page):
    x, y = middle(page)
    return point(100 * x / WIDTH, 100 * y / HEIGHT, page)


def test_a_disc_is_followed_both_ways_and_corrected(desk):
    entry = desk(click_on_the_disc(2), pages=PAGES)
    items = by_page(entry)
    assert "tracked 6 pages." in sentences(entry)[0]
    assert sorted(items) == list(range(PAGES))
    assert min(iou(pixels(items[page]), disc(page)) for page in items) > 0.8
    mine = edited(items[4], lambda mask: mask.__setitem__(np.s_[: HEIGHT // 2], False))
    again = by_page(desk(typed("track"), on_screen=[*(items[p] for p in items if p != 4), mine], pages=PAGES))
    assert sorted(again) == [0, 1, 3, 5]
    assert {page: item["id"] for page, item in again.items()} == {page: items[page]["id"] for page in again}
    upper = np.s_[: HEIGHT // 2 - 2]
    assert pixels(again[5])[upper].sum() < pixels(items[5])[upper].sum(), "what comes after follows the correction"


def test_a_click_is_answered_while_a_track_runs(desk):
    order, begun = [], threading.Event()
    other = Desk(desk.client.application.test_client(), desk.xml)
    services = desk.client.application.extensions["x2sam"]
    opened = services.engines.ready_engine.open

    class Told:
        """A session that says when its track has begun."""

        def __init__(self, session):
            self._session = session

        def __getattr__(self, name):
            return getattr(self._session, name)

        def track(self, *args, **options):
            for step in self._session.track(*args, **options):
                begun.set()
                yield step

    def track():
        desk(click_on_the_disc(0), pages=PAGES)
        order.append("track")

    services.engines.ready_engine.open = lambda *args, **options: Told(opened(*args, **options))
    try:
        thread = threading.Thread(target=track)
        thread.start()
        assert begun.wait(60)
        x, y = middle(1)
        assert by_page(other(point(100 * x / WIDTH, 100 * y / HEIGHT, 1, "Object 2", tag="point"), pages=PAGES))
        order.append("click")
        thread.join(120)
    finally:
        del services.engines.ready_engine.open
    assert order == ["click", "track"]
