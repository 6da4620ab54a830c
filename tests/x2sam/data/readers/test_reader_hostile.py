"""Broken and hostile annotation files: each gives a sample, or a sentence that says what to do."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.x2sam.data.format_fixtures import BUILDERS
from x2sam.data.readers import READERS, DatasetSpec, open_dataset
from x2sam.errors import FramesError, X2SAMError

GARBAGE = (
    None, True, False, -1, 0, 1, 2, 7, 10**9, 10**30, 1.5, -2.5e300, "", "x", "-1", "99999999999999999999", "٣", "²",
    "../../../etc/passwd", "/etc/passwd", "a\0b", "C:\\x", "...", "e" * 5000, [], [[]], {}, [None], [1, 2], [[1, 2, 3]],
    [[0, 0, 1e7, 0, 1e7, 1e7]], [[1, "a"]], {"counts": [1], "size": [1, 1]}, {"counts": "zzz", "size": [64, 64]},
    {"counts": "", "size": [64, 64]}, {"counts": [-5, 4101], "size": [64, 64]}, {"counts": "P" * 50, "size": [64, 64]},
    {"size": [10**9, 10**9], "counts": [10**18]}, {"a": 1}, {"id": 1},
)  # fmt: skip


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    yield path
    lists = enumerate(value) if isinstance(value, list) else ()
    for key, child in value.items() if isinstance(value, dict) else lists:
        yield from _places(child, (*path, key))


def _damage(content: Any, rng: random.Random) -> Any:
    """One to three values replaced by garbage, taken out, doubled, or exchanged for another part of the file."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(content))
        path = rng.choice(places[1:]) if len(places) > 1 else ()
        if not path:
            return copy.deepcopy(rng.choice(GARBAGE))
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        what = rng.random()
        if what < 0.15:
            del parent[path[-1]]
        elif what < 0.25 and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[path[-1]]))
        elif what < 0.4:
            other = content
            for key in rng.choice(places[1:]):
                other = other[key] if not isinstance(other, (str, int, float, bool, type(None))) else other
            parent[path[-1]] = copy.deepcopy(other) if len(json.dumps(other, default=str)) < 3000 else None
        else:
            parent[path[-1]] = copy.deepcopy(rng.choice(GARBAGE))
    return content


def _read_all(spec: DatasetSpec) -> None:
    for task in READERS[spec.format].tasks:
        try:
            dataset = open_dataset(replace(spec, task=task, largest_json_mb=8))
            for index in range(len(dataset)):
                try:
                    sample = dataset[index]
                except X2SAMError as problem:
                    assert str(problem)
                else:
                    assert sample.masks.shape[::2] == (len(sample.frames), *sample.frames.shape[1:2])
                    assert len(sample.labels) == sample.masks.shape[1]
        except X2SAMError as problem:
            assert len(str(problem)) > 10


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, DatasetSpec]:
    root = tmp_path_factory.mktemp("formats")
    return {name: build(root / name) for name, build in BUILDERS.items()}


def _json_files(spec: DatasetSpec) -> list[Path]:
    root = Path(spec.annotations)
    files = list(root.rglob("*.json")) if root.is_dir() else [root]
    return sorted(files + ([Path(spec.source)] if str(spec.source) else []))


@pytest.mark.parametrize("name", BUILDERS)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_damaged_entries(built, name, seed):
    rng = random.Random(seed)
    path = rng.choice(_json_files(built[name]))
    whole = path.read_bytes()
    try:
        path.write_text(json.dumps(_damage(json.loads(whole), rng)))
        _read_all(replace(built[name], limit=2))
    finally:
        path.write_bytes(whole)


_ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["videos", "images", "annotations", "categories", "id", "a", "items", "format", "refs"]), inner,
        max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(content=_ANY_JSON, name=st.sampled_from(sorted(BUILDERS)))
def test_any_json(built, content, name):
    path = _json_files(built[name])[0]
    whole = path.read_bytes()
    try:
        path.write_text(json.dumps(content))
        _read_all(replace(built[name], limit=2))
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("damage", [b"", b"\x89PNG\r\n\x1a\n", b"no picture", bytes(range(256)) * 9])
@pytest.mark.parametrize("name", ["coco", "panoptic", "vos", "clips", "x2sam", "chat-video", "labelmaps"])
def test_damaged_media(built, tmp_path, name, damage):
    """Every picture, label map and video of a copy is replaced; the error names a file."""
    spec = built[name]
    source = Path(spec.annotations) if name in ("clips", "x2sam", "labelmaps") else Path(spec.annotations).parent
    copied = tmp_path / "copy"
    shutil.copytree(source, copied)
    for path in copied.rglob("*"):
        if path.suffix in (".jpg", ".png", ".mp4"):
            path.write_bytes(damage)

    def moved(value: str | Path) -> str | Path:
        return copied / Path(value).relative_to(source) if str(value) else value

    spec = replace(spec, **{key: moved(getattr(spec, key)) for key in ("annotations", "images", "masks", "source")})
    with pytest.raises(FramesError, match=r"\.(jpg|png|mp4)"):
        open_dataset(spec)[0]
