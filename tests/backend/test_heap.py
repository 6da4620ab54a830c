"""Memory that was freed goes back to the machine, when nobody is being answered, and at the latest after a minute."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from backend.heap import HeapKeeper, release


def test_when_it_is_time():
    now, busy, given = 0.0, False, []
    keeper = HeapKeeper(lambda: busy, lambda: given.append(now), lambda: now)
    looks = {5: False, 10: True, 15: False, 20: True}  # seconds; nobody is being answered
    for now, due in looks.items():  # noqa: B007
        assert keeper.look() is due
    busy = True
    for now, due in {40: False, 79: False, 80: True, 100: False}.items():  # noqa: B007
        assert keeper.look() is due
    assert given == [10, 20, 80]


@pytest.mark.skipif(release() is None or not sys.platform.startswith("linux"), reason="another C library than glibc")
def test_the_c_library_gives_back_what_is_free():
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    # 300 MB in pieces that are too small for maps of their own, with one piece in fifty that stays
    pieces = [np.ones(60_000, np.uint8) for _ in range(5_000)]
    kept = pieces[::50]
    del pieces
    before = resident()
    release()()
    assert before - resident() > 150e6, len(kept)
