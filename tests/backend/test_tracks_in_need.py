"""Tracks where something is missing: room for another one, a page that was there before, time for the answer."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from clip_desk import HEIGHT, PAGES, WIDTH, Desk, point
from picture_server import picture_bytes
from reading import sentences

from backend import background
from backend.app import close_app, create_app

STOP = 4  # the first page that waits to be let through


@pytest.fixture
def pictures(pictures):
    for page in range(PAGES):
        pictures.files[f"small/{page}.png"] = picture_bytes(WIDTH, HEIGHT)
    return pictures


@pytest.fixture
def gate(engine):
    """Tracks go on from page ``STOP`` when this is set."""
    gate = threading.Event()
    engine.on_page = lambda page: page < STOP or gate.wait(10)
    return gate


@pytest.fixture
def app(settings, engine, pictures, gate):
    app = create_app(replace(settings, track_seconds=0.4, tracks=1), lambda: engine)
    app.extensions["x2sam"].engines.wait(5)
    yield app
    gate.set()
    close_app(app)


@pytest.fixture
def desk(app):
    return Desk(app.test_client())


@pytest.fixture
def services(app):
    return app.extensions["x2sam"]


def mask_at(left):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, left : left + 20] = True
    return mask


def test_time_is_up_before_it_begins(desk, gate, monkeypatch):
    monkeypatch.setattr(background.TrackJob, "began", lambda job: gate.wait(5))
    entry = desk(point(50, 50, 0))
    assert "waiting for other tracks" not in sentences(entry)[0]
