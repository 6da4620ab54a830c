"""Whose request is the newest: by the ids that the browser gave to the prompts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

from backend.turns import Turns


def clicks(*ids, label="Object"):
    return [SimpleNamespace(id=name, label=label) for name in ids]


def test_added_moved_and_undone_prompts_are_the_same_persons():
    turns = Turns()
    taken = [turns.take("1", clicks(*ids)) for ids in ("a", "ab", "ab", "b", "bc")]
    assert len({turn.key for turn in taken}) == 1
    assert [turn.number for turn in taken] == sorted({turn.number for turn in taken})


def test_two_people_on_one_task_and_label_never_meet():
    turns = Turns()
    ann, bob = turns.take("1", clicks("a")), turns.take("1", clicks("x"))
    assert turns.take("1", clicks("a", "b")).key == ann.key != bob.key == turns.take("1", clicks("x", "y")).key


def test_a_draft_tells_whose_the_prompts_are():
    """With Auto-Accept each click starts anew, with ids that nobody has seen."""
    turns = Turns()
    ann = turns.take("1", clicks("a"), "user 3")
    assert turns.take("1", clicks("b"), "user 3").key == ann.key
    assert turns.take("1", clicks("c"), "user 4").key != ann.key
    assert turns.take("1", clicks("d")).key != ann.key


def test_another_label_or_task_is_another_matter():
    turns = Turns()
    keys = [
        turns.take(*asked).key for asked in (("1", clicks("a")), ("1", clicks("a", label="Other")), ("2", clicks("a")))
    ]
    assert len(set(keys)) == 3


def test_prompts_without_ids_have_no_turn():
    turns = Turns()
    assert turns.take("1", clicks("")) is None
    assert turns.take("1", []) is None


def test_old_prompts_are_forgotten():
    turns = Turns(remembered=4)
    first = turns.take("1", clicks("a"))
    for number in range(4):
        turns.take("1", clicks(str(number)))
    assert turns.take("1", clicks("a")).key != first.key
    assert len(turns._keys) == 4


def test_numbers_are_never_given_twice():
    turns = Turns()
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda n: turns.take("1", clicks("a", str(n))), range(200)))
    assert len({turn.number for turn in taken}) == 200 and len({turn.key for turn in taken}) == 1
