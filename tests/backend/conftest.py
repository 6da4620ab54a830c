from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_engine import FakeEngine
from picture_server import PictureServer

from backend.app import close_app, create_app
from backend.file_cache import FileCache
from backend.media import MediaFetcher
from backend.settings import Settings

hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

REQUESTS = Path(__file__).parent / "data" / "requests"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def pictures():
    """Stands in for Label Studio's files."""
    server = PictureServer()
    yield server
    server.close()


@pytest.fixture
def other():
    """A second server: another origin, since its port differs."""
    server = PictureServer()
    server.files["/a.png"] = b"from elsewhere"
    yield server
    server.close()


@pytest.fixture
def settings(pictures, tmp_path) -> Settings:
    return Settings(
        label_studio_url=pictures.url,
        media_cache_dir=str(tmp_path / "media"),
        state_dir=str(tmp_path / "state"),
        load_wait=5,
        media_timeout=5,
        warm_tasks=0,  # else pictures are fetched and encoded that no test asked for
    )


@pytest.fixture
def fetcher_for(settings, tmp_path):
    def make(rules=None, **changes):
        changed = replace(settings, **changes)
        return MediaFetcher(changed, FileCache(tmp_path / "media", changed.media_cache_bytes, 3600), rules)

    return make


@pytest.fixture
def app(settings, engine):
    app = create_app(settings, lambda: engine)
    app.extensions["x2sam"].engines.wait(5)
    yield app
    close_app(app)


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def captured():
    """The body of a request as Label Studio sent it (long masks cut), by file name."""
    return lambda name: json.loads((REQUESTS / f"{name}.json").read_text(encoding="utf-8"))["body"]
