"""The memory container: first in first out, a person's frames beside it."""

from __future__ import annotations

import pytest
import torch

from x2sam.model.mask_memory import MaskMemory, MemoryEntry


def entry(time: int, value: float = 0.0) -> MemoryEntry:
    return MemoryEntry(time, (torch.full((1, 4, 2), value),), (2, 2))


def times(memory: MaskMemory) -> list[int]:
    return [e.time for e in memory.read()]


def filled(slots: int, *pushed: int) -> MaskMemory:
    memory = MaskMemory(slots)
    for time in pushed:
        memory.push(entry(time))
    return memory


def test_the_oldest_makes_room():
    memory = filled(3, 0, 1, 2, 3, 4)
    assert times(memory) == [2, 3, 4] and len(memory) == 3


def test_an_empty_memory():
    assert times(MaskMemory()) == [] and len(MaskMemory()) == 0
    with pytest.raises(ValueError, match="slot"):
        MaskMemory(0)


def test_pinned_frames_stay_beside_the_queue():
    memory = filled(3, 0)
    memory.push(entry(1), pin=True)
    for time in range(2, 9):
        memory.push(entry(time))
    assert times(memory) == [1, 6, 7, 8]


def test_the_pinned_entry_of_a_frame_wins():
    memory = filled(3, 4, 5)
    memory.push(entry(5, 1.0), pin=True)
    assert times(memory) == [5, 4]
    assert float(memory.read()[0].levels[0].max()) == 1.0


def test_pinning_a_frame_again_replaces_it():
    memory = MaskMemory(3)
    for time, value in ((1, 0.0), (2, 0.0), (1, 1.0)):
        memory.push(entry(time, value), pin=True)
    assert times(memory) == [2, 1]
    assert float(memory.read()[1].levels[0].max()) == 1.0


def test_the_whole_is_bounded():
    memory = MaskMemory(2)
    for time in range(10):
        memory.push(entry(time), pin=True)
        memory.push(entry(100 + time))
    assert times(memory) == [8, 9, 108, 109]


def test_a_copy_goes_its_own_way():
    memory = filled(2, 0, 1)
    memory.push(entry(7), pin=True)
    other = memory.copy()
    other.push(entry(2))
    memory.reset()
    assert times(memory) == [] and times(other) == [7, 1, 2]
