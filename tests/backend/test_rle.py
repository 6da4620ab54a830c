from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from label_studio_sdk.converter import brush

from backend import rle
from backend.errors import RunLengthError

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))


def bits_to_list(bits: str) -> list[int]:
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def write_stream(values: list[int], fields: list[int], word: int, choose: random.Random) -> list[int]:
    """Any legal stream for the given bytes: literals and repeats of any length, each with any field that fits."""
    bits = f"{len(values):032b}{word - 1:05b}" + "".join(f"{size - 1:04b}" for size in fields)
    done = 0
    while done < len(values):
        longest = min(len(values) - done, 1 << max(fields))
        length = choose.randint(1, longest)
        part = values[done : done + length]
        field = choose.choice([i for i, size in enumerate(fields) if length <= 1 << size])
        repeat = len(set(part)) == 1 and choose.random() < 0.7
        bits += f"{int(repeat)}{field:02b}{length - 1:0{fields[field]}b}"
        bits += "".join(f"{value:0{word}b}" for value in (part[:1] if repeat else part))
        done += length
    return bits_to_list(bits)


@given(MASKS)
def test_round_trip(mask):
    encoded = rle.encode_mask(mask)
    assert (rle.decode_mask(encoded, *mask.shape) == mask).all()
    assert (rle.decode_alpha(encoded, *mask.shape) == mask * np.uint8(255)).all()


@given(MASKS)
def test_bytes_are_those_of_the_sdk(mask):
    ours, theirs = rle.encode_mask(mask), brush.mask2rle(mask.astype(np.uint8) * 255)
    assert theirs in (ours, [*ours, 0])  # theirs has one zero byte too many when the bits already fill the last byte
    assert (brush.decode_rle(ours).reshape(*mask.shape, 4)[..., 3] == mask * np.uint8(255)).all()


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 64, 65, 16383, 16384, 16385, 32768, 32769, 49157])
@pytest.mark.parametrize("inside", [False, True])
def test_run_lengths_around_the_field_sizes(length, inside):
    mask = np.full((1, length + 1), inside)
    mask[0, -1] = not inside
    ours, theirs = rle.encode_mask(mask), brush.mask2rle(mask.astype(np.uint8) * 255)
    assert theirs in (ours, [*ours, 0])
    assert (rle.decode_mask(ours, *mask.shape) == mask).all()


def test_more_runs_than_one_chunk():
    mask = np.arange(400 * 500).reshape(400, 500) % 2 == 0
    assert (rle.decode_mask(rle.encode_mask(mask), 400, 500) == mask).all()


@given(
    st.lists(st.integers(0, 255), min_size=1, max_size=60),
    st.lists(st.integers(1, 16), min_size=4, max_size=4),
    st.integers(1, 8),
    st.randoms(use_true_random=False),
)
def test_decodes_every_legal_stream(pixels, fields, word, choose):
    values = [value & ((1 << word) - 1) for pixel in pixels for value in (choose.randint(0, 255), 0, 7, pixel)]
    stream = write_stream(values, fields, word, choose)
    alpha = rle.decode_alpha(stream, 1, len(pixels))
    assert alpha.tolist() == [values[3::4]]
    assert brush.decode_rle(stream).tolist() == values


def test_soft_edges_are_cut_in_the_middle():
    stream = write_stream([0, 0, 0, 127, 0, 0, 0, 128], [3, 4, 8, 16], 8, random.Random(0))
    assert rle.decode_mask(stream, 1, 2).tolist() == [[False, True]]


@given(MASKS, st.data())
def test_damage_is_an_error_or_another_mask_but_nothing_else(mask, data):
    encoded = rle.encode_mask(mask)
    position = data.draw(st.integers(4, len(encoded) - 1))
    encoded[position] = data.draw(st.integers(0, 255))
    try:
        assert rle.decode_alpha(encoded, *mask.shape).shape == mask.shape
    except RunLengthError as error:
        assert "brush mask" in str(error)


@given(MASKS)
def test_a_cut_list_is_an_error(mask):
    encoded = rle.encode_mask(mask)
    for length in {0, 3, 6, len(encoded) - 2}:
        with pytest.raises(RunLengthError):
            rle.decode_alpha(encoded[:length], *mask.shape)


@pytest.mark.parametrize("bad", [[-1], [256], ["a"], "text", None, [1.5], 7, 7.5, [[1]]])
def test_no_list_of_bytes(bad):
    with pytest.raises(RunLengthError, match="numbers from 0 to 255"):
        rle.decode_alpha(bad, 1, 1)


def test_a_claim_of_four_gigabytes_allocates_nothing():
    with pytest.raises(RunLengthError, match="4294967295 bytes"):
        rle.decode_alpha([255] * 64, 480, 640)


def test_size_must_match():
    with pytest.raises(RunLengthError, match="40 x 30"):
        rle.decode_mask(rle.encode_mask(np.ones((30, 41), bool)), 30, 40)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,), (2, 2, 2)])
def test_unusable_masks_are_refused(shape):
    with pytest.raises(RunLengthError, match="two axes"):
        rle.encode_mask(np.zeros(shape, bool))
