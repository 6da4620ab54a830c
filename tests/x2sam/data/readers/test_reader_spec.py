"""What a data set may be described with, and the table of formats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.x2sam.data.format_fixtures import BUILDERS, build_coco
from x2sam.data.readers import READERS, DatasetSpec, open_dataset
from x2sam.data.tasks import TASKS
from x2sam.errors import FramesError


def test_a_table_of_a_configuration(tmp_path):
    spec = DatasetSpec.from_mapping(
        {"name": "a", "format": "coco", "task": "genseg", "annotations": "x/i.json", "images": "/data", "limit": 3},
        tmp_path,
    )
    assert (spec.annotations, spec.images, spec.masks, spec.limit) == (tmp_path / "x/i.json", Path("/data"), "", 3)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"colour": 1}, "no setting colour; there are name, format"),
        ({"task": ""}, "lacks task"),
        ({"limit": -1}, "limit is -1; give a whole number from 0"),
        ({"limit": "3"}, "limit is '3'"),
        ({"stride": 0}, "from 1"),
        ({"stride": True}, "from 1"),
        ({"sampling": "all"}, "choose one of 'stride', 'span'"),
        ({"mode": "thing"}, "choose one of 'instance'"),
        ({"split": 3}, "write it as text"),
        ({"images": ["a"]}, "write it as text"),
    ],
)
def test_settings_that_mean_nothing_are_told(values, told):
    with pytest.raises(FramesError, match=told):
        DatasetSpec.from_mapping({"name": "a", "format": "coco", "task": "genseg"} | values)


def test_unknown_formats_tasks_and_missing_paths_are_told(tmp_path):
    spec = build_coco(tmp_path)
    with pytest.raises(FramesError, match="there is no format 'voc'; use one of coco, coco-panoptic"):
        open_dataset(replace(spec, format="voc"))
    with pytest.raises(FramesError, match="'coco' serves genseg, ovseg, vgdseg, intseg, not 'chat'"):
        open_dataset(replace(spec, task="chat"))
    with pytest.raises(FramesError, match="needs the setting 'images'"):
        open_dataset(replace(spec, images=""))
    with pytest.raises(FramesError, match=r"none\.json can't be read"):
        open_dataset(replace(spec, annotations=tmp_path / "none.json"))


def test_the_table_names_only_what_exists():
    fields = set(DatasetSpec.__dataclass_fields__)
    for name, row in READERS.items():
        assert set(row.tasks) <= {task.name for task in TASKS}, name
        assert set(row.needs) | set(row.takes) <= fields, name
        assert row.summary


def test_every_format_and_every_task_has_a_fixture(tmp_path):
    built = [build(tmp_path / name) for name, build in BUILDERS.items()]
    assert {spec.format for spec in built} == set(READERS)
    assert {task for spec in built for task in READERS[spec.format].tasks} == {task.name for task in TASKS}
