"""Prompts of one caller side by side: what each needs of the device next is asked for all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from x2sam.inference.scheduler import Joint, Priority
from x2sam.structures import Mask


@dataclass(frozen=True, eq=False)
class Step:
    """What a prompt needs of the device next, and the frames that this looks at."""

    job: Joint
    priority: Priority
    frames: Sequence[int]


Way = Generator[Step, Any, list[Mask]]
"""A prompt on its way to its masks: steps out, their results in."""


def walk_all(ways: Sequence[Way], most: int, run: Callable[[Sequence[Step]], list[Any]]) -> list[list[Mask]]:
    """The masks at the end of every way, ``most`` of which go side by side. ``run`` gives the results of several steps
    of the same priority."""
    found = []
    for begin in range(0, len(ways), most):
        found += _side_by_side(ways[begin : begin + most], run)
    return found


def _side_by_side(ways: Sequence[Way], run: Callable[[Sequence[Step]], list[Any]]) -> list[list[Mask]]:
    found: dict[int, list[Mask]] = {}
    results: dict[int, Any] = dict.fromkeys(range(len(ways)))
    while results:
        steps: dict[int, Step] = {}
        for number, result in results.items():
            try:
                steps[number] = ways[number].send(result)
            except StopIteration as end:
                found[number] = end.value
        results = {}
        for priority in sorted({step.priority for step in steps.values()}):
            now = {number: step for number, step in steps.items() if step.priority == priority}
            results |= zip(now, run(list(now.values())), strict=True)
    return [found[number] for number in range(len(ways))]
