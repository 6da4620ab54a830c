"""Checked reading of JSON, paths, pictures and label maps."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from x2sam.data.readers import files
from x2sam.data.readers.files import Node, inside, read_json, read_map, read_picture, size_of
from x2sam.errors import FramesError


def test_an_error_names_file_and_place(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": [{"id": 1}, {"id": "x"}]}))
    entry = read_json(path).get("images").items()[1]
    with pytest.raises(FramesError, match=r"a\.json: images\[1\]\.id should be a whole number, not 'x'; correct"):
        entry.get("id").whole()
    with pytest.raises(FramesError, match=r"a\.json: images\[1\] has no 'width'"):
        size_of(Node({"height": 2}, 1, read_json(path).get("images")))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not JSON"),
        ("[NaN]", "NaN"),
        ("[" * 100_000, "not JSON"),
        ("[" + "9" * 5000 + "]", "not JSON"),
        ("\x00", "not JSON"),
    ],
)
def test_what_is_no_json_is_told(tmp_path, text, told):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(FramesError, match=rf"a\.json.*{told}"):
        read_json(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(" " * 1_100_000 + "1")
    with pytest.raises(FramesError, match="1 MB, more than 1; split it, or raise largest_json_mb"):
        read_json(path, 1)
    assert read_json(path, 2).whole() == 1
    with pytest.raises(FramesError, match="can't be read"):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "..\\a", "C:\\a", "a\0b", "", "x" * 300, "a/" * 1500])
def test_paths_stay_inside(name):
    with pytest.raises(FramesError, match=r"here.*file"):
        inside(Path("/data"), name, "here")


def test_paths_inside_are_joined():
    assert inside(Path("/data"), "a/./b.jpg", "here") == Path("/data/a/b.jpg")
    assert inside(Path("/data"), "a\\b.jpg", "here") == Path("/data/a/b.jpg")


@pytest.mark.parametrize("value", [True, "1", 1.5, None, [], 10**30])
def test_whole_numbers_are_whole(value):
    with pytest.raises(FramesError, match="whole number"):
        Node(value, "f").whole()


def test_ids_may_be_numbers_or_texts():
    assert [Node(v, "f").identity() for v in (7, "7", 7.0)] == ["7"] * 3
    for value in (True, None, 1.5, []):
        with pytest.raises(FramesError, match="id"):
            Node(value, "f").identity()


def _photo(path: Path, orientation: int | None) -> Path:
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(np.full((10, 20, 3), 90, np.uint8)).save(path, exif=exif)
    return path


def test_pictures_are_turned_only_where_the_annotations_are(tmp_path):
    path = _photo(tmp_path / "a.jpg", 6)
    assert read_picture(path, (10, 20)).shape == (10, 20, 3)
    assert read_picture(path, (20, 10)).shape == (20, 10, 3)
    assert read_picture(path).shape == (10, 20, 3)
    assert read_picture(path, upright=True).shape == (20, 10, 3)
    with pytest.raises(FramesError, match=r"a\.jpg is 20 x 10 pixels but its annotations are for 10 x 12"):
        read_picture(path, (12, 10))


def test_a_picture_that_is_not_turned_is_not_exchanged(tmp_path):
    with pytest.raises(FramesError, match="belong together"):
        read_picture(_photo(tmp_path / "a.jpg", None), (20, 10))


def test_huge_pictures_are_not_decoded(tmp_path, monkeypatch):
    path = _photo(tmp_path / "a.jpg", None)
    monkeypatch.setattr(files, "MOST_PIXELS", 150)
    for read in (read_picture, read_map):
        with pytest.raises(FramesError, match="20 x 10 pixels, more than 150"):
            read(path)


def test_label_maps_of_all_kinds(tmp_path):
    values = np.array([[0, 1], [2, 255]], np.uint8)
    grey, palette, wide, colour = (tmp_path / f"{name}.png" for name in "gpwc")
    Image.fromarray(values).save(grey)
    indexed = Image.fromarray(values, "P")
    indexed.putpalette(list(range(255, -1, -1)) * 3)
    indexed.save(palette)
    Image.fromarray(values.astype(np.uint16) * 257).save(wide)
    Image.fromarray(np.dstack([values, values, values])).save(colour)
    assert read_map(grey).tolist() == read_map(palette).tolist() == values.tolist()
    assert read_map(wide).tolist() == (values.astype(int) * 257).tolist()
    assert read_map(colour).tolist() == (values.astype(int) * (1 + 256 + 65536)).tolist()
    with pytest.raises(FramesError, match="annotations are for"):
        read_map(grey, (3, 3))


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.floats(0.1, 1),
)
def test_damaged_pictures_are_read_or_told(tmp_path, kind, changes, kept):
    path = tmp_path / "damaged"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30)).save(path, kind, exif=exif)
    content = bytearray(path.read_bytes())
    for place, value in changes:
        # Mostly the head, where the sizes and tables are.
        content[int(place**3 * len(content))] = value
    path.write_bytes(content[: int(kept * len(content))])
    for read in (read_picture, lambda p: read_picture(p, upright=True), read_map):
        try:
            read(path)
        except FramesError as problem:
            assert "damaged" in str(problem)


def test_an_orientation_that_is_no_number_turns_nothing(tmp_path):
    # One entry of the kind "undefined", which Pillow gives as bytes.
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHI4sI", 8, 1, 0x0112, 7, 1, b"\x06\0\0\0", 0)
    path = tmp_path / "a.jpg"
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(path, exif=exif)
    assert type(Image.open(path).getexif()[0x0112]) is bytes
    for upright in (False, True):
        assert read_picture(path, (10, 20), upright).shape == (10, 20, 3)
