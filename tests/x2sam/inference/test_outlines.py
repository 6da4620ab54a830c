"""Shapes that outlines are told by; expected values are worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from x2sam.data.scene_shapes import SILHOUETTES
from x2sam.errors import WeightsError
from x2sam.inference.outlines import (
    FILE,
    LEAST_PIXELS,
    NAMES,
    SHAPES,
    embedded_outline_names,
    measures,
    read_outline_names,
)
from x2sam.inference.outlines_fit import main, spoiled

ROWS, COLS = np.mgrid[:120, :120] - 59.5


def drawn(name: str) -> np.ndarray:
    """Plain shapes of 120 x 120 pixels, each drawn by its own inequality."""
    far, near = np.hypot(ROWS, COLS), np.maximum(np.abs(ROWS), np.abs(COLS))
    return {
        "circle": far < 45,
        "ring": (far < 45) & (far > 27),
        "square": near < 40,
        "rectangle": (np.abs(ROWS) < 20) & (np.abs(COLS) < 45),
        "frame": (near < 45) & (near > 32),
        "triangle": (ROWS < 35) & (2 * np.abs(COLS) - 45 < ROWS),
        "cross": (near < 45) & (np.minimum(np.abs(ROWS), np.abs(COLS)) < 12),
        "rod": (np.abs(ROWS) < 4) & (np.abs(COLS) < 50),
    }[name]


@pytest.mark.parametrize("name", ["circle", "ring", "square", "rectangle", "frame", "triangle", "cross", "rod"])
def test_plain_shapes_are_told_by_their_outlines(name):
    (odds,) = embedded_outline_names().log_odds(measures(drawn(name))[None])
    assert NAMES[odds.argmax()] == name and odds[NAMES.index(name)] > 1.0


def test_measures_worked_by_hand():
    square, ring, disc = (measures(drawn(name)) for name in ("square", "ring", "circle"))
    # full hull and rectangle, as long as wide, pi / 4 as round as a circle, no hole
    assert square[[0, 2, 3]] == pytest.approx(1.0, abs=0.05) and square[4] == pytest.approx(0.0, abs=0.02)
    assert square[5] == pytest.approx(np.pi / 4, abs=0.05) and square[7] == 0.0
    # the hole is (27 / 45)**2 of the filled disc
    assert ring[7] == pytest.approx(0.36, abs=0.04) and ring[8] == 1 and disc[8] == 0
    # a disc fills pi / 4 of the square around it
    assert disc[2] == pytest.approx(np.pi / 4, abs=0.03)


def test_measures_do_not_depend_on_place_and_hardly_on_size_or_turn():
    star = np.abs(np.arctan2(ROWS, COLS) * 5 % (2 * np.pi) / np.pi - 1) * 22 + 22 > np.hypot(ROWS, COLS)
    moved = np.roll(star, (9, -7), (0, 1))
    assert np.array_equal(measures(star), measures(moved))
    odds = embedded_outline_names().log_odds
    for other in (star[::-1], np.rot90(star), np.kron(star, np.ones((2, 2), bool))):
        assert NAMES[odds(measures(np.ascontiguousarray(other))[None])[0].argmax()] == "star"


@pytest.mark.parametrize("size", [(1, LEAST_PIXELS), (LEAST_PIXELS, 1), (5, 5), (400, 2)])
def test_any_mask_can_be_measured(size):
    thin = np.ones(size, bool)
    dust = np.zeros((60, 60), bool)
    dust[::3, ::3] = True
    for mask in (thin, np.pad(thin, 4), dust):
        assert np.isfinite(measures(mask)).all()


def test_every_name_is_one_that_scenes_draw():
    assert set(NAMES) == set(SILHOUETTES) and {"circle", "star", "worm"} <= SHAPES and not SHAPES & {"bird", "letter"}


def test_log_odds_are_about_one_shape_in_so_many():
    odds = embedded_outline_names().log_odds(np.stack([measures(drawn("ring")), measures(drawn("rod"))]))
    assert (np.exp(odds) / len(NAMES)).sum(1) == pytest.approx([1.0, 1.0], abs=1e-5)


def test_a_spoiled_mask_stays_about_what_it_was():
    disc = drawn("circle")
    other = spoiled(np.random.default_rng(3), disc)
    assert (other != disc).any() and (other & disc).sum() / (other | disc).sum() > 0.85


def test_broken_weights_are_named(tmp_path):
    save_file({"centre": np.zeros(3, np.float32)}, tmp_path / "o.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    for name in ("o", "text", "none"):
        with pytest.raises(WeightsError, match="install"):
            read_outline_names(tmp_path / f"{name}.safetensors")


def test_the_command_learns_names(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("x2sam.inference.outlines_fit.STEPS", 15)
    monkeypatch.setattr("x2sam.inference.outlines_fit._CHECKED", 4)
    main(["--pictures", "25", "--out", str(tmp_path / "o.safetensors")])
    assert "most probable name right" in capsys.readouterr().out
    assert read_outline_names(tmp_path / "o.safetensors").leave.shape == read_outline_names(FILE).leave.shape
