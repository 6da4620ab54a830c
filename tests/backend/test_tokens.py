from __future__ import annotations

import base64
import json

import pytest

from backend.errors import MediaError
from backend.tokens import LabelStudioToken, read_access_token


def jwt(**content):
    body = base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")
    return f"head.{body}.signature"


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def never(token):
    raise AssertionError("not to be exchanged")


def test_no_token_no_header():
    assert LabelStudioToken("", never).header() == {}


def test_old_tokens_and_access_tokens_go_as_they_are():
    assert LabelStudioToken("a" * 40, never).header() == {"Authorization": "Token " + "a" * 40}
    access = jwt(token_type="access")
    assert LabelStudioToken(access, never).header() == {"Authorization": f"Bearer {access}"}
    assert LabelStudioToken("not.a.jwt", never).header() == {"Authorization": "Token not.a.jwt"}


def test_personal_tokens_are_exchanged_and_kept_until_shortly_before_their_end():
    clock, given = Clock(), []

    def exchange(token):
        given.append(token)
        return jwt(iat=5000, exp=5300, n=len(given))  # by Label Studio's clock, which differs

    personal = jwt(token_type="refresh")
    token = LabelStudioToken(personal, exchange, clock)
    first = token.header()
    assert first["Authorization"].startswith("Bearer head.")
    clock.now += 269
    assert token.header() == first
    clock.now += 2
    assert token.header() != first
    assert given == [personal, personal]


def test_an_access_token_that_tells_no_end_lives_four_minutes():
    clock, count = Clock(), []
    token = LabelStudioToken(jwt(token_type="refresh"), lambda _: count.append(1) or f"opaque{len(count)}", clock)
    assert token.header() == {"Authorization": "Bearer opaque1"}
    clock.now += 239
    assert token.header() == {"Authorization": "Bearer opaque1"}
    clock.now += 1
    assert token.header() == {"Authorization": "Bearer opaque2"}


def test_a_refused_personal_token_is_exchanged_again():
    count = []
    token = LabelStudioToken(jwt(token_type="refresh"), lambda _: count.append(1) or f"opaque{len(count)}", Clock())
    token.header()
    assert token.refuse()
    assert token.header() == {"Authorization": "Bearer opaque2"}
    assert not LabelStudioToken("a" * 40, never).refuse()


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'"x"', b"<html>"])
def test_answers_without_token(answer):
    with pytest.raises(MediaError, match="LABEL_STUDIO_API_KEY"):
        read_access_token(answer)
