from __future__ import annotations

import re
from datetime import datetime
from html import unescape
from xml.etree import ElementTree

import pytest

from backend.effort import Effort, Measured
from backend.effort_tally import Summary
from backend.report_page import FEW, columns, counts, duration, outcome, page, percent, plain, spans

MADE = datetime(2026, 11, 30, 12, 0)
HOSTILE = "</title><script>alert(1)</script><img src=\"http://example.com/x\" onerror='alert(1)'>&amp;{{ 7 * 7 }}"


def summary(label="cat", masks=2, by_annotator=False, journal=True, annotator="3f9a1c20"):
    found = Summary.begin(by_annotator, journal)
    for number in range(masks):
        mask = Effort(label, "prompted", "v1", 1 + number % 2, 4.0, 1.0 if number % 2 else 0.5, 0.5, bool(number % 2))
        found.add(Measured((mask,)), f"2026-11-{16 + 7 * (number % 2)}T10:00:00Z", annotator)
    return found


def parsed(text):
    assert text.startswith("<!DOCTYPE html>\n")
    return ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def words(tree):
    return " ".join(" ".join(tree.itertext()).split())


def test_the_page_says_what_the_numbers_say():
    text = words(parsed(page(summary(), 7, MADE, "Cars & <vans>")))
    assert "Effort in project 7: Cars & <vans>" in text
    assert "Effort in project 7" in text and "2 masks in 2 submitted annotations; 2026-11-30 12:00." in text
    assert "50 % of proposed masks were submitted untouched known of 2 of 2" in text
    assert "1.5 prompts for a mask that was prompted" in text and "4.0 s for a mask, median" in text
    assert "0.75 overlap (IoU) of what was proposed and submitted first answer: 0.50" in text
    assert "Week by week" in text and "11-16" in text and "11-23" in text


def test_the_page_stands_alone():
    text = page(summary(by_annotator=True), 7, MADE)
    tree = parsed(text)
    kinds = {element.tag for element in tree.iter()}
    assert not kinds & {"script", "img", "link", "iframe", "object", "embed", "a", "form", "use", "image", "base"}
    for element in tree.iter():
        assert not {name for name in element.attrib if name.startswith("on") or name in ("src", "href", "data")}
    assert not re.search(r"https?:|//|url\(|@import", text)
    policy = next(meta for meta in tree.iter("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.get("content") == "default-src 'none'; style-src 'unsafe-inline'"


def test_hostile_names_are_only_words():
    text = page(summary(HOSTILE, by_annotator=True), 7, MADE)
    cells = ["".join(cell.itertext()) for cell in parsed(text).iter("td")]
    assert HOSTILE[:100] in cells
    assert "<script" not in text and "<img" not in text and "{{ 7 * 7 }}" in unescape(text)


def test_annotators_only_where_they_are_asked_for():
    assert "3f9a1c20" not in page(summary(), 7, MADE)
    assert "3f9a1c20" in page(summary(by_annotator=True), 7, MADE)


def test_few_masks_and_no_journal_are_told():
    rows = [row for row in parsed(page(summary(masks=FEW - 1), 7, MADE)).iter("tr") if row.get("class") == "few"]
    assert len(rows) == 2  # the label and the version
    assert 'class="few"' not in page(summary(masks=FEW), 7, MADE)
    assert "could not be read" in words(parsed(page(summary(journal=False), 7, MADE)))


def test_an_empty_project():
    assert "Nobody has submitted a mask yet." in words(parsed(page(Summary.begin(False, True), 7, MADE)))


def test_what_becomes_of_masks_fills_the_bar():
    found = Summary.begin(False, True)
    masks = [Effort("cat", "predicted", untouched=True)] * 3 + [Effort("cat", "tracked", untouched=False)] * 2
    found.add(Measured((*masks, *[Effort("cat", "unknown")] * 4, Effort("cat", "drawn"))), "", "")
    bar = [(part.kind, part.start, part.length) for part in outcome(found.total)]
    assert bar == [("untouched", 0, 30), ("changed", 30, 20), ("unknown", 50, 40), ("drawn", 90, 10)]


def test_columns_are_as_high_as_their_values():
    low, none, high = columns(["a", "b", "c"], [1, None, 4])
    assert (low.height, none.height, high.height) == (37.5, 0.0, 150.0)  # of 150
    assert low.y == 112.5 and (low.told, none.told) == ("1", "")
    assert columns(["a"], [0.5], percent, 1.0)[0].height == 75.0


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(None, "–"), (0.123, "0.12 s"), (4.24, "4.2 s"), (59.4, "59 s"), (59.6, "1 min"), (125, "2 min 5 s")],
)
def test_durations(seconds, told):
    assert duration(seconds) == told


def test_numbers_in_words():
    assert (percent(0.725), percent(None), plain(1.44), plain(12.4), plain(0.973)) == ("72 %", "–", "1.4", "12", "0.97")
    assert spans((0.5, 0.9), 0, 1) == ["0-0.5", "0.5-0.9", "0.9-1"]
    assert counts((1, 2, 4, 6)) == ["below 1", "1", "2-3", "4-5", "6+"]
