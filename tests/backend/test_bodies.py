"""What is JSON, what is not, and that the difference is told in a sentence which quotes nothing."""

from __future__ import annotations

import io
import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.bodies import parse_json, runs_as_text
from backend.errors import BadRequestError, RunLengthError
from backend.rle import decode_mask, encode_mask, run_bytes

CLICK = "predict_interactive_keypoint_positive"


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": 1, "a": 2}', {"a": 2}),
        ('{"ä": "\\u00e4"}'.encode(), {"ä": "ä"}),
        (b'["\\ud83d"]', ["\ud83d"]),
        (b"[" * 900 + b"]" * 900, None),
        (b"123456789012345678", 123456789012345678),
    ],
)
def test_json(body, value):
    found = parse_json(body)
    assert value is None or found == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"secret-text",
        b'{"secret-text": NaN}',
        b'{"secret-text": Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 5000 + b"]" * 5000,
        b'{"a":' * 100_000,
        b'["\xff"]',
        b"\xef\xbb\xbf{}",
        b'{"secret-text": 1',
        b'["\\ud83d", NaN]',
        b'["\\ud83d",' + b"[" * 100_000,
        '{"a": 1}'.encode("utf-16"),
    ],
)
def test_no_json(body, client):
    with pytest.raises(BadRequestError) as error:
        parse_json(body)
    assert "secret" not in str(error.value)
    for path in ("/setup", "/predict", "/webhook"):
        answer = client.post(path, data=body, content_type="application/json")
        assert answer.status_code == 400
        assert answer.json["error"].startswith("The request body is ")
        assert "secret" not in answer.text


LONG = list(range(256)) * 20


def test_long_run_lengths_become_texts_and_nothing_else_does():
    asked = {
        "runs": [{"rle": runs} for runs in (LONG, LONG[:900], [1, -2] * 4000, [0.5] * 4000, ["1"] * 4000)],
        "text": '"rle": [' + "1," * 5000 + "]", "key\\": LONG, '"rle': LONG, "rle ": LONG,
    }  # fmt: skip
    for indent, separators in ((None, None), (None, (",", ":"))):
        found = parse_json(json.dumps(asked, indent=indent, separators=separators).encode())
        assert run_bytes(found["runs"][0]["rle"]) == bytes(LONG)
        assert isinstance(found["runs"][0].pop("rle"), str)
        assert found == asked | {"runs": [{}, *asked["runs"][1:]]}


def test_a_mask_is_read_from_either_form():
    mask = np.random.default_rng(3).random((90, 120)) > 0.5
    rle = encode_mask(mask)
    text = parse_json(json.dumps({"rle": rle}).encode())["rle"]
    assert isinstance(text, str)
    assert np.array_equal(decode_mask(text, 90, 120), mask)
    for damaged in ("", "1,,2", "[1]", "1],[2", "256", "1.5", '"1"', "{}", "NaN"):
        with pytest.raises(RunLengthError):
            decode_mask(damaged, 90, 120)


keys = st.sampled_from(["rle", "a", 'x"rle', "rle\\"])
numbers = st.one_of(
    st.lists(st.integers(0, 255), max_size=4), st.sampled_from([LONG, LONG * 2, [*LONG, -1], [LONG, LONG]])
)
values = st.recursive(
    st.one_of(st.none(), st.text(max_size=8), st.just('"rle":[' + "7," * 5000), numbers),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)), max_leaves=8,
)  # fmt: skip


def as_lists(value):
    """What was parsed, with the long run lengths as lists again."""
    if isinstance(value, dict):
        return {k: list(run_bytes(v)) if k == "rle" and long_text(v) else as_lists(v) for k, v in value.items()}
    return [as_lists(one) for one in value] if isinstance(value, list) else value


def long_text(value):
    return isinstance(value, str) and len(value) > 4000 and not value.startswith('"')


@given(values, st.sampled_from([None, 1]), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_any_json_means_the_same(value, indent, separators):
    body = json.dumps(value, indent=indent, separators=separators).encode()
    assert as_lists(json.loads(runs_as_text(body))) == value


@pytest.mark.parametrize(
    "body", [b'"rle":[' * 2_000_000, b'{"rle":[' + b'"rle":[1111' * 1_000_000 + b"]", (b'"rle":[' + b"1" * 4200) * 3000]
)
def test_bodies_made_to_be_slow(body):
    """Each of these is looked at once: the keys are many, but no text between two of them is read again and again."""
    began = time.process_time()
    assert runs_as_text(body) is body
    assert time.process_time() - began < 5, "measured: 0.2 s; seconds for each megabyte where it grows with the square"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_another_content_type(client, captured, kind):
    answer = client.post("/predict", data=json.dumps(captured(CLICK)), content_type=kind)
    assert answer.status_code == 400
    assert "application/json" in answer.json["error"]


def test_packed_bodies_are_refused(client, captured):
    answer = client.post("/predict", json=captured(CLICK), headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 400
    assert "compressed" in answer.json["error"]


@pytest.mark.parametrize("failure", [TimeoutError, BlockingIOError, ConnectionResetError, None])
def test_a_client_that_falls_silent(client, failure):
    class Silent(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            if failure is not None:
                raise failure
            return 0

    overrides = {"wsgi.input": Silent(), "CONTENT_LENGTH": "10"}
    answer = client.post("/predict", content_type="application/json", environ_overrides=overrides)
    assert answer.status_code == 408
    assert "in time" in answer.json["error"]


def test_setup_takes_no_large_bodies(client, captured):
    body = captured("setup") | {"extra_params": "x" * (9 * 2**20)}
    answer = client.post("/setup", json=body)
    assert answer.status_code == 413
    assert answer.json["error"]
