"""Features on disk: what comes back, what is thrown out, what damage does, and a restart of the engine."""

from __future__ import annotations

import errno
import logging
import os
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from x2sam.data.tasks import find_task
from x2sam.errors import StoreError
from x2sam.inference import feature_store as store_module
from x2sam.inference.feature_cache import FeatureCache
from x2sam.inference.feature_store import FeatureStore
from x2sam.model.x2sam import EncodedFrame, FrameFeatures
from x2sam.structures import Point, Prompt

SIZE = (60, 80)
CLICKS = Prompt(points=(Point(20, 20), Point(60, 40, False)))


class Picture:
    """One page that tells what it shows; ``read`` counts how often it was decoded."""

    def __init__(self, seed: int = 0, digest: str | None = None):
        self.pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)
        self.name = digest or f"digest {seed}"

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.pixels

    def digest(self, index: int) -> str:
        return self.name


def encoded(value: float = 1.0, side: int = 8) -> EncodedFrame:
    return EncodedFrame([torch.full((1, 2, side, side), value)], torch.full((1, side, side, 4), value))


@pytest.fixture
def open_store(tmp_path):
    opened = []

    def build(budget: int = 2**24, version: str = "v1", folder: str = "features") -> FeatureStore:
        opened.append(FeatureStore(tmp_path / folder, budget, version, "cpu", lambda: None))
        return opened[-1]

    yield build
    for store in opened:
        store.close()


def files(store: FeatureStore) -> list:
    return sorted(store.directory.iterdir())


def stored(store: FeatureStore, *keys) -> list:
    return [key for key in keys if store.take(key) is not None]


def test_what_was_offered_is_there_after_a_restart(open_store):
    first = open_store()
    first.offer("a", encoded(3.0))
    first.close()
    again = open_store()
    value = again.take("a")
    assert torch.equal(value.fpn[0], encoded(3.0).fpn[0]) and torch.equal(value.stage3, encoded(3.0).stage3)
    assert again.used == sum(path.stat().st_size for path in files(again)) > 0
    assert again.take("b") is None


def test_lists_of_many_maps_keep_their_order(open_store):
    store = open_store()
    maps = [torch.full((1, 1, 2, 2), float(n)) for n in range(12)]
    store.offer("a", FrameFeatures(maps, maps[0]))
    assert store.flush()
    assert [int(m[0, 0, 0, 0]) for m in store.take("a").maps] == list(range(12))


def test_number_types_survive(open_store):
    store = open_store()
    value = EncodedFrame([torch.rand(1, 2, 3, 3, dtype=torch.bfloat16)], torch.rand(1, 3, 3, 4, dtype=torch.float16))
    store.offer("a", value)
    assert store.flush()
    again = store.take("a")
    assert torch.equal(again.fpn[0], value.fpn[0]) and again.stage3.dtype == torch.float16


def test_tensors_that_share_memory_are_written(open_store):
    store, whole = open_store(), torch.rand(1, 4, 6, 6)
    store.offer("a", EncodedFrame([whole[:, :2], whole[:, 1:3]], whole.permute(0, 2, 3, 1)))
    assert store.flush()
    again = store.take("a")
    assert torch.equal(again.fpn[1], whole[:, 1:3]) and torch.equal(again.stage3, whole.permute(0, 2, 3, 1))


def test_another_model_finds_nothing(open_store):
    open_store(version="v1").offer("a", encoded())
    open_store(version="v1").close()
    assert open_store(version="v2").take("a") is None


def test_the_least_used_files_go_first(open_store):
    store = open_store()
    store.offer("a", encoded())
    store.flush()
    one = store.used
    store.close()
    small = open_store(budget=int(3.5 * one))
    for key in "bc":
        small.offer(key, encoded())
        small.flush()
    assert small.take("a") is not None
    small.offer("d", encoded())
    small.flush()
    assert stored(small, "a", "b", "c", "d") == ["a", "c", "d"]
    assert small.used == 3 * one == sum(path.stat().st_size for path in files(small))


def test_the_order_of_use_outlives_the_process(open_store):
    store = open_store()
    for number, key in enumerate("abc"):
        store.offer(key, encoded())
        store.flush()
        os.utime(files(store)[0].parent / store._name(key), (1000 + number, 1000 + number))
    assert store.take("a") is not None
    one = store.used // 3
    store.close()
    assert stored(open_store(budget=int(1.5 * one)), "a", "b", "c") == ["a"]


def test_what_is_larger_than_the_budget_is_not_written(open_store):
    store = open_store(budget=1000)
    store.offer("a", encoded(side=64))
    assert store.flush() and files(store) == []


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def empty(path):
    path.write_bytes(b"")


def noise(path):
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def one_bit(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def foreign(path):
    save_file({"other": torch.zeros(3)}, path)


def other_kind(path):
    tensors = {"maps": torch.zeros(3)}
    about = {"version": "v1", "kind": "features", "sum": store_module.checksum(tensors)}
    save_file(tensors, path, about)


def unknown_kind(path):
    tensors = load_file(path)
    save_file(tensors, path, {"version": "v1", "kind": "pickle", "sum": store_module.checksum(tensors)})


@pytest.mark.parametrize("damage", [cut, empty, noise, one_bit, foreign, other_kind, unknown_kind])
def test_a_damaged_file_is_a_miss_and_is_removed(open_store, damage, caplog):
    store = open_store()
    store.offer("a", encoded())
    store.flush()
    (path,) = files(store)
    damage(path)
    assert store.take("a") is None
    assert files(store) == [] and store.used == 0
    assert "removed" in caplog.text and str(store.directory) not in caplog.text
    store.offer("a", encoded())
    store.flush()
    assert store.take("a") is not None


def test_a_file_that_somebody_removed_is_a_miss(open_store, caplog):
    store = open_store()
    store.offer("a", encoded())
    store.flush()
    files(store)[0].unlink()
    assert store.take("a") is None and store.used == 0 and not caplog.text


def test_half_written_files_are_cleared_up(open_store, tmp_path):
    (tmp_path / "features").mkdir()
    old, young = (tmp_path / "features" / f"{name}.part" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    store = open_store()
    assert not old.exists() and young.exists()
    assert store.used == 0


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (torch.OutOfMemoryError("no room"), "OutOfMemoryError"),
    ],
)
def test_no_room_ends_writing_with_one_warning(open_store, monkeypatch, caplog, error, reason):
    store = open_store()
    store.offer("before", encoded())
    store.flush()

    def full(*_):
        raise error

    monkeypatch.setattr(store_module.os, "replace", full)
    with caplog.at_level(logging.WARNING):
        for key in "abc":
            store.offer(key, encoded())
            assert store.flush()
    assert [record.message for record in caplog.records] == [
        f"features are not stored any more: {reason}; free some space and start again"
    ]
    assert len(files(store)) == 1, "nothing half-written is left"
    assert store.take("before") is not None


def test_writing_never_holds_up_the_device(open_store, monkeypatch):
    store, go = open_store(), threading.Event()
    write = store._write
    monkeypatch.setattr(store, "_write", lambda *args: go.wait(10) and write(*args))
    monkeypatch.setattr(store_module, "PENDING_BYTES", 4 * encoded().stage3.nbytes)
    for number in range(50):
        store.offer(number, encoded())  # would hang here
    assert store._pending_bytes <= store_module.PENDING_BYTES
    go.set()
    assert store.flush()
    assert 1 <= len(files(store)) < 50


def test_the_cache_reads_from_the_store_only_what_lasts(open_store):
    store = open_store()
    cache = FeatureCache(2**20, store)
    cache.get("a", encoded, lasting=True)
    cache.get("b", encoded)
    store.flush()
    again = FeatureCache(2**20, store)
    again.get("a", lambda: pytest.fail("it is on disk"), lasting=True)
    assert again.get("a", lambda: pytest.fail("it is in memory"), lasting=True) is not None
    made = []
    again.get("b", lambda: made.append(1) or encoded())
    assert made and len(files(store)) == 1
    counts = again.counts
    assert (counts.hits, counts.restored, counts.misses) == (1, 1, 1)
    assert counts.stored == store.used > 0 and counts.bytes == again.used


# with an engine


@pytest.fixture(params=["published", "sketching"])
def model(request, tiny_model, sketching_model):
    return tiny_model if request.param == "published" else sketching_model


def masks(session, *prompts):
    return [(mask.mask.tobytes(), mask.score) for prompt in prompts for mask in session.segment(prompt)]


def test_a_restarted_engine_has_warm_features(build_engine, model, tmp_path, monkeypatch):
    prompts = (CLICKS, Prompt(text="the red circle"), Prompt(categories=("cat", "dog")))
    first = build_engine(model, store=tmp_path, store_bytes=2**26)
    expected = masks(first.open(Picture()), *prompts)
    first.close()
    again = build_engine(model, store=tmp_path, store_bytes=2**26)
    for part in (model.mask_encoder, model.vision_language.visual, model.pixel_decoder):
        monkeypatch.setattr(part, "forward", lambda *_: pytest.fail("computed again"))
    session = again.open(Picture())
    assert masks(session, *prompts) == expected
    assert again.features.restored == 3 and again.features.misses == 0
    # a prefix that was read back goes on as often as one that was computed
    assert masks(again.open(Picture()), *prompts) == expected
    looked = session.looking.looked(find_task("intseg", "image"), 0)
    assert looked.prefix.get_seq_length() == looked.prefix_length > 0


def test_a_restart_with_another_picture_or_number_type_or_model_is_cold(build_engine, model, tmp_path):
    first = build_engine(model, store=tmp_path, store_bytes=2**26)
    first.open(Picture()).prepare()
    first.close()
    again = build_engine(model, store=tmp_path, store_bytes=2**26)
    again.open(Picture(1)).prepare()
    assert again.features.restored == 0
    other = build_engine(model, version="tiny-2", store=tmp_path, store_bytes=2**26)
    other.open(Picture()).prepare()
    assert other.features.restored == 0


def test_nothing_is_written_without_directory_and_budget(build_engine, model, tmp_path):
    for settings in ({"store": tmp_path}, {"store_bytes": 2**26}):
        engine = build_engine(model, **settings)
        engine.open(Picture()).prepare()
        assert engine.store is None
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_can_not_be_used(build_engine, model, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="name a directory"):
        build_engine(model, store=tmp_path / "file", store_bytes=2**26)


def test_nameless_pictures_are_not_written(build_engine, model, tmp_path):
    engine = build_engine(model, store=tmp_path, store_bytes=2**26)
    engine.open(Picture().pixels).prepare()
    engine.close()
    assert list(tmp_path.iterdir()) == []


def test_an_engine_answers_on_a_full_disk(build_engine, model, tmp_path, monkeypatch):
    engine = build_engine(model, store=tmp_path, store_bytes=2**26)
    expected = masks(engine.open(Picture().pixels), CLICKS)

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store_module.tempfile, "mkstemp", full)
    assert masks(engine.open(Picture()), CLICKS) == expected
    assert engine.store.flush()
    assert masks(engine.open(Picture(1)), CLICKS)
    assert engine.features.stored == 0
