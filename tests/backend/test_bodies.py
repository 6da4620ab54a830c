"""What is JSON, what is not, and that the difference is told in a sentence which quotes nothing."""

from __future__ import annotations

import io
import json

import pytest

from backend.bodies import parse_json
from backend.errors import BadRequestError

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
