"""What is left of a walk, whatever was found of it: the end is as without interruption, and little is walked twice."""

from __future__ import annotations

import numpy as np
from fake_engine import FakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.carried import Carried, Known
from backend.remembered import PackedMask
from backend.tracking import Reach, Track, order_of, untouched

PAGES = 24
FRAMES = [np.zeros((8, 64, 3), np.uint8)] * PAGES


def masked(seed):
    mask = np.zeros((8, 64), bool)
    mask[2:6, seed : seed + 6] = True
    return Known(PackedMask.of(mask))


def carried(name, pages, shift=0):
    return Carried(name, "Object", {page: masked((5 * page + shift) % 50) for page in pages})


def walk(objects, reach, found=None):
    engine = FakeEngine()
    track = Track(lambda: engine.open(FRAMES), PAGES, objects, reach, found)
    news = [stride for stride in track.walk() if stride is not None]
    assert track.done == track.total
    return track, engine, news


def masks(track):
    return {(page, name): known.mask for page, here in track.found.items() for name, known in here.items()}


reaches = st.one_of(
    st.builds(Reach, st.sampled_from(["forward", "backward", "both"])),
    st.builds(lambda pages, page: Reach("forward", pages, page), st.integers(1, 30), st.none() | st.integers(0, 20)),
)
known_pages = st.lists(st.sets(st.integers(0, PAGES - 1), min_size=1, max_size=4), min_size=1, max_size=3)


@settings(max_examples=150)
@given(known_pages, reaches, st.randoms(use_true_random=False), st.floats(0, 1))
def test_any_part_may_have_been_found(known, reach, chance, share):
    objects = [carried(f"obj{number}", pages, number) for number, pages in enumerate(known)]
    if not any(wanted for wanted in Track(None, PAGES, objects, reach).wanted.values()):
        return
    whole, _, news = walk(objects, reach)
    assert len({(stride.page, name) for stride in news for name in stride.masks}) == sum(len(s.masks) for s in news)
    part = {
        page: {name: one for name, one in here.items() if chance.random() < share} for page, here in whole.found.items()
    }
    rest, engine, _ = walk(objects, reach, part)
    assert masks(rest) == masks(whole)
    assert all(name in part[page] for page, name in engine.recalled)


def test_nothing_is_walked_where_nothing_is_missing():
    objects = [carried("obj0", {3, 9})]
    whole, _, _ = walk(objects, Reach())
    _, engine, news = walk(objects, Reach(), whole.found)
    assert not engine.sessions and not news


def test_a_correction_touches_what_lies_between_the_known_pages_around_it():
    before, found = carried("obj0", {0, 8, 16}), {}
    found = walk([before], Reach())[0].found
    now = carried("obj0", {0, 8, 12, 16})
    assert sorted(untouched(now, before, found)) == [page for page in range(PAGES) if page not in (*range(8, 17), 0)]
    changed = Carried("obj0", "Object", {**before.known, 16: masked(1)})
    assert sorted(untouched(changed, before, found)) == [page for page in range(1, 8)]
    assert not untouched(carried("obj0", {23}), before, found)


def test_orders():
    assert order_of("stop").kind == order_of("Cancel tracking.").kind == order_of("cancel it").kind == "stop"
    assert (order_of("lock", 4).kind, order_of("lock", 4).page) == ("lock", 4)
    assert order_of("lock").page is None and order_of("LOCK all pages", 4).page is None
    assert order_of("track 3", 2).reach == Reach("forward", 3, 2)
    for text in ("stop sign", "the lock", "lock 3", "unlock", "", "lock all dogs", "cancelled"):
        assert order_of(text, 1) is None
