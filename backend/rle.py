"""Run-length lists of Label Studio's brush, both ways.

The list holds the bytes of a bit stream, most significant bit first: 32 bits byte count, 5 bits word size - 1, four
times 4 bits (size - 1) of the length fields; then runs until the count is reached: 1 bit "repeat", 2 bits which length
field, the length - 1, and one word (repeat) or as many words as the length says. The bytes are RGBA pixels row by row,
of which only alpha counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import orjson

from backend.errors import RunLengthError

_FIELD_BITS = (3, 4, 8, 16)
_WORD_BITS = 8
_CHANNELS = 4
_LONGEST_RUN = 1 << _FIELD_BITS[-1]
_LARGEST_FIELD_RUN = np.array([1 << bits for bits in _FIELD_BITS[:-1]])
_CODE_BITS = 1 + 2 + _FIELD_BITS[-1] + _WORD_BITS  # the longest code
_CHUNK = 1 << 16
_PIXELS_AT_ONCE = 1 << 24
_OPAQUE = 255


def encode_mask(mask: np.ndarray) -> list[int]:
    """The run-length list of a mask, bool (H, W), with alpha 255 inside and 0 outside."""
    if mask.ndim != 2 or mask.size == 0:
        raise RunLengthError(f"A brush mask has two axes and at least one pixel; this one has the shape {mask.shape}.")
    flat = mask.astype(bool, copy=False).ravel()
    starts = np.concatenate(([0], *_changes(flat)))
    lengths = np.diff(np.append(starts, flat.size)) * _CHANNELS
    values = flat[starts].astype(np.int64) * _OPAQUE
    bits = [_header_bits(flat.size * _CHANNELS)]
    bits += _run_bits(*_split_long_runs(lengths, values))
    return np.packbits(np.concatenate(bits)).tolist()


def decode_alpha(rle: Sequence[int] | str, height: int, width: int) -> np.ndarray:
    """The alpha channel, uint8 (H, W), of a run-length list of a picture of the given size; ``rle`` as in
    :func:`run_bytes`.

    :raises RunLengthError: the list is damaged, cut, or made for another size; nothing larger than ``H * W * 4`` bytes
        is ever allocated, whatever the list claims.
    """
    reader = _BitReader(run_bytes(rle))
    count = reader.read(32)
    if count != height * width * _CHANNELS or count == 0:
        raise RunLengthError(
            f"The brush mask holds {count} bytes; a picture of {width} x {height} needs {height * width * _CHANNELS}."
        )
    word = reader.read(5) + 1
    if word > _WORD_BITS:
        raise RunLengthError(f"The brush mask has words of {word} bits; 8 and fewer can be read.")
    fields = [reader.read(4) + 1 for _ in range(4)]
    out = np.empty(count, np.uint8)
    done = 0
    while done < count:
        repeat, length, value = reader.read_run(fields, word)
        end = done + length
        if end > count:
            raise RunLengthError("The brush mask is damaged: a run goes past the end of the picture.")
        out[done:end] = value if repeat else reader.read_words(length, word)
        done = end
    return out.reshape(height, width, _CHANNELS)[..., 3].copy()


def decode_mask(rle: Sequence[int] | str, height: int, width: int, threshold: int = 128) -> np.ndarray:
    """The mask, bool (H, W): alpha at least ``threshold``, since edited masks have soft edges."""
    return decode_alpha(rle, height, width) >= threshold


def _header_bits(count: int) -> np.ndarray:
    header = count
    for value, bits in ((_WORD_BITS - 1, 5), *((size - 1, 4) for size in _FIELD_BITS)):
        header = header << bits | value
    return np.unpackbits(np.frombuffer((header << 3).to_bytes(7, "big"), np.uint8))[:53]


def _changes(flat: np.ndarray) -> Iterator[np.ndarray]:
    """Where a value differs from the one before it, in chunks: masks of huge pictures have hundreds of megabytes."""
    for start in range(1, flat.size, _PIXELS_AT_ONCE):
        part = flat[start - 1 : start + _PIXELS_AT_ONCE]
        yield np.flatnonzero(part[1:] != part[:-1]) + start


def _split_long_runs(lengths: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of at most 65536, with the field that each uses: all parts of a split run use the longest one."""
    fields = np.searchsorted(_LARGEST_FIELD_RUN, lengths)
    parts = -(-lengths // _LONGEST_RUN)
    index = np.repeat(np.arange(len(lengths)), parts)
    pieces = np.full(len(index), _LONGEST_RUN)
    pieces[np.cumsum(parts) - 1] = lengths - (parts - 1) * _LONGEST_RUN
    return pieces, values[index], fields[index]


def _run_bits(lengths: np.ndarray, values: np.ndarray, fields: np.ndarray) -> Iterator[np.ndarray]:
    """The bits of the runs, 0 and 1 as uint8, in chunks that bound the memory a noisy mask takes."""
    sizes = np.array(_FIELD_BITS)[fields]
    codes = ((0b100 | fields) << sizes | (lengths - 1)) << _WORD_BITS | values
    widths = 3 + sizes + _WORD_BITS
    places = np.arange(_CODE_BITS - 1, -1, -1)
    for start in range(0, len(codes), _CHUNK):
        part = slice(start, start + _CHUNK)
        table = (codes[part, None] >> places & 1).astype(np.uint8)
        yield table[places < widths[part, None]]


def run_bytes(rle: Sequence[int] | str) -> bytes:
    """The bytes of a run-length list, or of its text without the brackets (``"12,7,255"``), as
    :func:`backend.bodies.parse_json` leaves long ones.

    :raises RunLengthError: they are not numbers from 0 to 255.
    """
    try:
        # iter: of a plain number, bytes() would make so many zeros
        return bytes(iter(orjson.loads(f"[{rle}]") if isinstance(rle, str) else rle))
    except (TypeError, ValueError) as error:
        raise RunLengthError("A brush mask must be a list of numbers from 0 to 255.") from error


class _BitReader:
    """Reads unsigned numbers from a bit stream, most significant bit first."""

    def __init__(self, data: bytes):
        self._data = data
        self._position = 0

    def _advance(self, bits: int) -> int:
        start = self._position
        self._position += bits
        if self._position > 8 * len(self._data):
            raise RunLengthError("The brush mask is damaged: its list ends too early.")
        return start

    def read(self, bits: int) -> int:
        start = self._advance(bits)
        first, last = start >> 3, (start + bits + 7) >> 3
        window = int.from_bytes(self._data[first:last], "big")
        return window >> (8 * last - start - bits) & ((1 << bits) - 1)

    def read_run(self, fields: Sequence[int], word: int) -> tuple[bool, int, int]:
        """Whether the next run repeats a word, its length, and that word. One look at the bytes: masks have thousands
        of runs."""
        position = self._position
        first = position >> 3
        # what lies behind the end reads as zeros and is refused by _advance
        window = int.from_bytes(self._data[first : first + 5].ljust(5, b"\0"), "big")
        left = 40 - (position & 7) - 3
        code = window >> left & 7
        bits = fields[code & 3]
        left -= bits
        length = (window >> left & ((1 << bits) - 1)) + 1
        repeat = code > 3
        self._advance(3 + bits + word if repeat else 3 + bits)
        return repeat, length, window >> (left - word) & ((1 << word) - 1) if repeat else 0

    def read_words(self, count: int, bits: int) -> np.ndarray:
        """``count`` words of ``bits`` (at most 8) each, uint8."""
        start = self._advance(count * bits)
        first, last = start >> 3, (start + count * bits + 7) >> 3
        raw = np.unpackbits(np.frombuffer(self._data, np.uint8, last - first, first))
        table = raw[start - 8 * first :][: count * bits].reshape(count, bits)
        padded = np.zeros((count, 8), np.uint8)
        padded[:, 8 - bits :] = table
        return np.packbits(padded, axis=1)[:, 0]
