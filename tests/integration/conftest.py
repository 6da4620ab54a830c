"""What runs here has a real Label Studio, and both forms of the ML backend beside it: see ``tests/workplace.py``."""

from __future__ import annotations

from pathlib import Path

import pytest
from workplace import ENGINES, Workplace


def pytest_collection_modifyitems(items):
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session", params=ENGINES)
def workplace(request, workplaces) -> Workplace:
    return workplaces(request.param)
