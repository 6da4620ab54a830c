"""What runs here has a real Label Studio, and both forms of the ML backend beside it: see ``tests/workplace.py``."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests
from workplace import ENGINES, Workplace


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
    page = f"{label_studio.url}/user/login/"
    with requests.Session() as browser:
        browser.get(page, timeout=60)
        form = {"email": label_studio.username, "password": label_studio.password}
        form["csrfmiddlewaretoken"] = browser.cookies["csrftoken"]
        browser.post(page, data=form, headers={"Referer": page}, timeout=60)
        browser.headers.update({"X-CSRFToken": browser.cookies["csrftoken"], "Referer": label_studio.url})
        return browser.post(f"{label_studio.url}/api/token/", json={}, timeout=60).json()["token"]
