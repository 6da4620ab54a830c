"""What a phrase says that can be measured, and which query it means; expected values are worked by hand."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from x2sam.data.colours import COLOUR_NAMES
from x2sam.data.tasks import find_task
from x2sam.errors import WeightsError
from x2sam.inference.engine import Engine
from x2sam.inference.mask_signs import distinct, whole
from x2sam.inference.pointing import (
    FILE,
    SIGNS,
    Asked,
    embedded_pointing_weights,
    meant,
    read_pointing_weights,
    signs_of,
)
from x2sam.inference.pointing_fit import Pointed, fit, main
from x2sam.inference.worded import pointing_signs, predict_on, read_words
from x2sam.structures import Prompt

RED, GRAY = COLOUR_NAMES.index("red"), COLOUR_NAMES.index("gray")


@pytest.mark.parametrize(
    ("phrase", "asked"),
    [
        ("the red cup on the left", Asked((RED,), across=-1, shape="cup")),
        ("Rightmost GREY bus at the top", Asked((GRAY,), across=1, upright=-1)),
        ("the largest dog in the middle", Asked(amid=1, size=1)),
        ("small bird in the bottom right corner", Asked(across=1, upright=1, size=-1, shape="bird")),
        ("the largest dotted stars", Asked(size=1, shape="star")),
        ("the right side of the frame", Asked(across=1)),
        ("the bus behind the cross", Asked()),
        ("the chair left of the table", Asked()),
        ("the plate in her right hand", Asked()),
        ("the car on the left of the picture", Asked(across=-1, shape="car")),
        ("left and right", Asked()),
        ("a bright reddish boat", Asked()),
        ("the man with the red cap on the left", Asked(across=-1)),
        ("the woman who holds a small green bag", Asked()),
        ("a bouquet of red and gray flowers", Asked(tuple(sorted((RED, GRAY))), shape="flower")),
        ("", Asked()),
    ],
)
def test_what_a_phrase_says(phrase, asked):
    assert Asked.of(phrase) == asked


def four_corners() -> tuple[np.ndarray, np.ndarray]:
    """Masks of the left and the right column of 4 x 4 cells, a bottom row and nothing; a picture, red on the right."""
    logits = np.full((4, 4, 4), -4.0, np.float32)
    logits[0, :, 0] = logits[1, :, 3] = logits[2, 3] = 4.0
    picture = np.full((8, 8, 3), 255, np.uint8)
    picture[:, 6:] = (200, 20, 20)
    return logits, picture


def test_signs_worked_by_hand():
    logits, picture = four_corners()
    heat = np.full((4, 4), -30.0, np.float32)
    heat[:2, 0] = 30.0
    asked = Asked((RED,), across=1, upright=1, amid=1, size=-1, shape="rod")
    rows = signs_of(asked, logits, np.array([0.5, 0.2, 0.2, 0.1]), heat, picture)
    left, right, bottom, nothing = (dict(zip(SIGNS, row, strict=True)) for row in rows.tolist())
    assert left["score"] == pytest.approx(0.0) and left["heat"] == pytest.approx(0.5)
    # middles lie at (1/8 - 1/2) and (7/8 - 1/2) of the width, the row at 7/8 - 1/2 of the height
    assert (left["across"], right["across"], bottom["across"]) == pytest.approx((-0.375, 0.375, 0.0))
    assert (left["upright"], bottom["upright"]) == pytest.approx((0.0, 0.375)) and left["amid"] == -0.375
    # 0.15 and 0.2 from the middle is all that the side of a third asks for, and the middle third is within 0.15
    assert (left["aside"], right["aside"], bottom["aloft"]) == pytest.approx((-0.375, 0.15, 0.2))
    assert (left["midway"], bottom["midway"]) == pytest.approx((0.15 - 0.375, 0.0))
    assert (left["colour"], right["colour"], bottom["colour"]) == pytest.approx((0.0, 1.0, 0.25))
    # outside of the bottom row 3 of 12 cells are red
    assert right["contrast"] == pytest.approx(1.0) and bottom["contrast"] == pytest.approx(0.0)
    assert left["size"] == pytest.approx(np.log(0.251)) and left["small"] == pytest.approx(-np.log(0.251))
    assert left["large"] == 0.0 and nothing["size"] == pytest.approx(np.log(0.001))
    # 4 + 4 + 1 + 1 of the four borders' cells, each of which has four: 1, 1/4, 1/4
    assert left["edge"] == pytest.approx((4 + 1 + 1) / 16) and nothing["edge"] == 0.0
    assert left["inside"] == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-6) and left["centred"] == pytest.approx(-0.375)
    # with itself 1, with the row 1 cell of 7: 0.5 + 0.2 / 7 of 1.0
    assert left["agreed"] == pytest.approx(0.5 + 0.2 / 7)
    assert left["whole"] == 1.0 and nothing["whole"] == 0.0 and right["distinct"] > left["distinct"]
    # bars have an outline, nothing has none
    assert left["outline"] != 0.0 and nothing["outline"] == 0.0 and left["figure"] == 0.0
    plain = signs_of(Asked(), logits, np.array([0.5, 0.2, 0.2, 0.1]), heat, picture)
    named = ("colour", "contrast", "across", "upright", "amid", "aside", "aloft", "midway", "large", "small")
    said = [SIGNS.index(s) for s in (*named, "outline", "figure")]
    assert not plain[:, said].any()


def test_the_words_choose_between_like_masks_and_never_nothing():
    logits, picture = four_corners()
    weights, heat = embedded_pointing_weights(), np.zeros((4, 4), np.float32)
    alike = np.array([0.3, 0.3, 0.1, 0.3])
    choose = lambda phrase: meant(signs_of(Asked.of(phrase), logits, alike, heat, picture), weights)  # noqa: E731
    assert choose("the bar on the left") == 0 and choose("the bar on the right") == 1
    assert choose("the red bar") == 1
    certain = np.array([0.0, 0.0, 0.0, 1.0])
    assert meant(signs_of(Asked(), logits, certain, heat, picture), weights) != 3
    empty = np.full((2, 4, 4), -4.0, np.float32)
    assert meant(signs_of(Asked(), empty, np.array([0.1, 0.9]), heat, picture), weights) in (0, 1)


def test_shapes_are_told_by_outlines():
    """A disc, a ring and a square of 40 cells: "the ring" is the one with the hole, though all score alike."""
    rows, cols = np.mgrid[:40, :40] - 19.5
    far = np.hypot(rows, cols)
    masks = np.stack([far < 15, (far < 15) & (far > 8), np.maximum(np.abs(rows), np.abs(cols)) < 13])
    logits, picture = np.where(masks, 4.0, -4.0).astype(np.float32), np.full((40, 40, 3), 128, np.uint8)
    heat, alike = np.zeros((40, 40), np.float32), np.full(3, 0.5)
    for place, shape in enumerate(("circle", "ring", "square")):
        odds = signs_of(Asked(shape=shape), logits, alike, heat, picture)[:, SIGNS.index("outline")]
        assert odds.argmax() == place and odds[place] > 0
    figure = signs_of(Asked(shape="bird"), logits, alike, heat, picture)
    assert not figure[:, SIGNS.index("outline")].any() and figure[:, SIGNS.index("figure")].any()


def test_distinct_and_whole_worked_by_hand():
    """White cells on black: 100 apart in lightness, which OpenCV counts in 255; grey on grey is not distinct."""
    masks = np.zeros((3, 12, 12), bool)
    masks[0, 3:8, 3:8] = masks[1, 0, 0] = masks[1, 5, 5:7] = True
    picture = np.zeros((12, 12, 3), np.uint8)
    picture[3:8, 3:8] = 255
    assert distinct(masks, picture)[[0, 2]] == pytest.approx([np.log(256), 0.0])
    assert distinct(masks, np.full((12, 12, 3), 90, np.uint8)) == pytest.approx([0.0, 0.0, 0.0])
    assert whole(masks) == pytest.approx([1.0, 2 / 3, 0.0])


def test_weights_are_fitted_to_what_tells_the_right_query():
    rng = np.random.default_rng(0)
    asked = []
    for number in range(60):
        queries = 5 if number % 3 else 3  # a phrase that is only a name has fewer
        signs = rng.normal(size=(queries, len(SIGNS)))
        iou = np.zeros(queries)
        iou[signs[:, SIGNS.index("colour")].argmax()] = 1.0
        asked.append(Pointed(signs, iou, 0.1, str(number), "scenes" if number % 2 else "others"))
    weights = fit(asked, ridge=1e-3)
    assert np.abs(weights).argmax() == SIGNS.index("colour")
    assert np.mean([one.iou[meant(one.signs, weights)] for one in asked]) > 0.9


def test_broken_weights_are_named(tmp_path):
    table = json.loads(FILE.read_text())
    del table["agreed"]
    (tmp_path / "w.json").write_text(json.dumps(table))
    with pytest.raises(WeightsError, match="install"):
        read_pointing_weights(tmp_path / "w.json")
    with pytest.raises(WeightsError, match="install"):
        read_pointing_weights(tmp_path / "none.json")


def test_the_command_asks_a_network_and_writes_weights(tmp_path, capsys):
    """A photograph that is held back and two generated pictures; fitted to so little, the weights only have to load."""
    rng = np.random.default_rng(3)
    held = next(name for name in map("{}.png".format, range(99)) if zlib.crc32(name.encode()) % 8 == 0)
    labels = np.zeros((48, 64), np.uint8)
    labels[8:40, 4:30], labels[4:20, 40:60] = 1, 2
    objects = [{"id": 1, "category": "cup"}, {"id": 2, "category": "plate"}]
    cv2.imwrite(str(tmp_path / held), rng.integers(0, 256, (48, 64, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "labels.png"), labels)
    entry = {"file": held, "mask": "labels.png", "width": 64, "height": 48, "source": "coco", "objects": objects}
    (tmp_path / "train.json").write_text(json.dumps({"pictures": [entry]}))
    target = tmp_path / "pointing.json"
    main(["--data", str(tmp_path), "--scenes", "2", "--out", str(target)])
    said = capsys.readouterr().out
    assert "everyday: 2 phrases" in said and "scenes: " in said
    assert read_pointing_weights(target).shape == (len(SIGNS),)


def test_colours_and_places_are_measured_on_answers_to_the_name_alone_too():
    """Two phrases in one pass: the one with a colour and a place has the queries of both questions, the first of which
    are those of the phrase as it is; the one that is only a name has its own."""
    picture = np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8)
    with Engine.load("nano") as engine:
        looking = engine.open(picture, key=None).looking
        task = find_task("refseg", "image")

        def ask(*phrases):
            worded = read_words(looking, [Prompt(text=phrase, task="refseg") for phrase in phrases], 0, task, 0, 0)
            return worded, predict_on(looking, worded, 0)

        (long, short), (both, one) = engine.run(lambda: ask("the red cup on the left", "cup"))
        _, (name,) = engine.run(lambda: ask("the cup"))
        (phrase,) = engine.run(lambda: predict_on(looking, [replace(long, bare=None)], 0))
        signs = engine.run(lambda: pointing_signs(looking, long, 0, both))
    assert long.bare is not None and short.bare is None
    assert both.queries == 2 * one.queries == len(signs)
    torch.testing.assert_close(both.mask_logits[: one.queries], phrase.mask_logits, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(both.mask_logits[one.queries :], name.mask_logits, atol=2e-3, rtol=1e-3)
    assert (both.mask_logits[: one.queries] - name.mask_logits).abs().max() > 0.1
