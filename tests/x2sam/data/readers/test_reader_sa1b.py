"""SA-1B: one JSON file per picture, outlines without names."""

from __future__ import annotations

import pytest

from tests.x2sam.data.format_fixtures import build_sa1b, scenes, write_json
from x2sam.data.readers import open_dataset
from x2sam.errors import FramesError


def test_every_outline_is_an_object(tmp_path):
    dataset = open_dataset(build_sa1b(tmp_path))
    for original, sample in zip(scenes(), dataset, strict=True):
        things = [o.id for o in original.objects if o.thing]
        assert sample.items == ("object",) and set(sample.labels.tolist()) <= {0} and list(sample.ids) == things
        assert all((sample.masks[0, n] == (original.labels[0] == k)).all() for n, k in enumerate(things))
    assert dataset[3].key == "sa_000001/sa_3.json"


def test_files_are_read_when_they_are_asked_for(tmp_path):
    dataset = open_dataset(build_sa1b(tmp_path))
    write_json(tmp_path / "sa_000000" / "sa_1.json", {"image": {"file_name": "../sa_0.jpg", "height": 64, "width": 64},
                                                    "annotations": []})  # fmt: skip
    assert len(dataset) == 4 and len(dataset[0].ids)
    with pytest.raises(FramesError, match=r"sa_1\.json.*not inside"):
        dataset[1]
    (tmp_path / "sa_000000" / "sa_1.json").unlink()
    with pytest.raises(FramesError, match=r"sa_1\.json can't be read"):
        dataset[1]
