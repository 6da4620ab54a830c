"""What runs here has a real Label Studio, and both forms of the ML backend beside it: see ``tests/workplace.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ward import TEXT, Ward
from workplace import ENGINES, Workplace, signed_in


def pytest_collection_modifyitems(items):
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session", params=ENGINES)
def workplace(request, workplaces) -> Workplace:
    return workplaces(request.param)


@pytest.fixture(scope="session")
def personal_token(label_studio) -> str:
    """A personal access token of the first user, who can have one only."""
    with signed_in(label_studio.url, label_studio.username, label_studio.password) as browser:
        return browser.post(f"{label_studio.url}/api/token/", json={}, timeout=60).json()["token"]


@pytest.fixture(scope="module")
def ward(label_studio, tmp_path_factory) -> Ward:
    return Ward(label_studio, tmp_path_factory.mktemp("ward"))


@pytest.fixture(scope="module")
def backend(ward) -> Iterator[str]:
    with ward.backend() as url:
        yield url


@pytest.fixture(scope="module")
def whole(ward, backend) -> int:
    """A project with nothing wrong; tests leave it as it is."""
    number = ward.project(TEXT)
    ward.attach(number, backend)
    return number
