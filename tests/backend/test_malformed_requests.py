"""Malformed requests at every endpoint: an answer soon, never a 5xx, and nothing that piles up.

``X2SAM_FUZZ_EXAMPLES=10000`` throws so many at each; the usual run throws 300. They are the same ones every time.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from picture_server import PictureServer

from backend.app import close_services, create_app
from backend.settings import Settings

EXAMPLES = int(os.environ.get("X2SAM_FUZZ_EXAMPLES", "300"))
REQUESTS = Path(__file__).parent / "data" / "requests"
SOON = 20.0  # seconds; a hang, not slowness, is what must not be
GROWTH = 150 * 2**20  # bytes that the process may gain in a whole run
JSON = "application/json"
OFTEN = 40  # how often a value is repeated at most

ROUND = 300  # examples after which Hypothesis forgets what it tried: it would grow by more than a server may

HOSTILE = st.sampled_from(
    [
        None, True, False, 0, -1, 1e308, -0.0, 2**53, 10**30, "", "0", "\ud83d", "\x00", "../../etc/passwd", "$image",
        "file:///etc/passwd", "http://169.254.169.254/latest", "http://[", "data:image/png;base64,AAAA", "data:,x",
        "s3://bucket/key", "<View><Image name='image' value='$image'/></View>", "<!DOCTYPE a [<!ENTITY b 'c'>]><View/>",
        "<View>", [], {}, [[]], [None], {"result": None}, {"": {}}, "x" * 5000, [0] * 500, [[[[[[[[[[]]]]]]]]]],
    ]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40)
VALUES = HOSTILE | st.recursive(
    SCALARS | HOSTILE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def captured(endpoint: str) -> list[dict]:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(REQUESTS.glob("*.json"))]
    return [one["body"] for one in found if one["path"] == endpoint and one["body"]]


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Every place in a JSON value, by its keys and indices."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:6]) if isinstance(value, list) else ()
    return [path, *(place for key, entry in inner for place in places(entry, (*path, key)))]


@st.composite
def mutated(draw, endpoint: str) -> bytes:
    """A captured request in which a few values are others, are gone, or are there many times."""
    body = copy.deepcopy(draw(st.sampled_from(captured(endpoint))))
    for _ in range(draw(st.integers(1, 4))):
        found = [place for place in places(body) if place]
        if not found:
            break
        *way, last = draw(st.sampled_from(found))
        parent = body
        for key in way:
            parent = parent[key]
        how = draw(st.sampled_from(("replace", "replace", "replace", "remove", "repeat", "nest")))
        if how == "remove":
            del parent[last]
        elif how == "repeat":
            parent[last] = [copy.deepcopy(parent[last]) for _ in range(draw(st.integers(2, OFTEN)))]
        elif how == "nest":
            parent[last] = {"x": [parent[last]]}
        else:
            parent[last] = copy.deepcopy(draw(VALUES))  # drawn values are shared; what is put into them must not be
    return json.dumps(body).encode()  # NaN and halves of characters come out as browsers would never send them


def bodies(endpoint: str) -> st.SearchStrategy[bytes]:
    """Mutated requests mostly; sometimes any JSON, cut JSON, or anything at all."""
    good = mutated(endpoint)
    cut = st.tuples(good, st.integers(0, 400)).map(lambda pair: pair[0][: -1 - pair[1]])
    spliced = st.tuples(good, st.binary(max_size=8), st.integers(0, 300)).map(
        lambda t: t[0][: t[2]] + t[1] + t[0][t[2] :]
    )
    other = VALUES.map(lambda value: json.dumps(value).encode())
    deep = st.integers(500, 20_000).map(lambda n: b'{"tasks":' * n)
    return st.one_of(good, good, good, good, cut, spliced, other, st.binary(max_size=200), deep)


TYPES = st.sampled_from(
    [JSON, JSON, JSON, JSON, JSON, "application/x+json", "text/plain", "", "a/b; c", "application/json;"]
)
HEADERS = st.dictionaries(
    st.sampled_from(["X-Request-ID", "Authorization", "X-Webhook-Secret", "Content-Encoding", "Range", "X-Other"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    max_size=3,
)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    pictures, folder = PictureServer(), tmp_path_factory.mktemp("fuzz")
    chosen = Settings(
        label_studio_url=pictures.url,
        media_cache_dir=str(folder / "media"),
        state_dir=str(folder / "state"),
        load_wait=5,
        media_timeout=5,
        max_pixels=1_000_000,
        media_cache_bytes=8 * 2**20,
        decoded_bytes=8 * 2**20,
        max_sessions=4,
        warm_tasks=0,
    )
    engine = FakeEngine()
    app = create_app(chosen, lambda: engine)
    app.extensions["x2sam"].engines.wait(5)

    def send(method: str, path: str, **options: Any):
        begun = time.monotonic()
        answer = app.test_client().open(path, method=method, **options)
        assert time.monotonic() - begun < SOON
        engine.asked.clear()
        engine.urgency.clear()
        engine.sessions.clear()
        return answer

    yield send
    close_services(app.extensions["x2sam"])
    pictures.close()


@pytest.fixture(autouse=True)
def steady_memory(target):
    """What the process takes at most, compared with before."""
    target("GET", "/health")
    gc.collect()
    before = taken()
    yield
    gc.collect()
    assert taken() - before < GROWTH


def taken() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    return pages * resource.getpagesize()


def throw_many(throw: Callable[..., None], *strategies: st.SearchStrategy) -> None:
    """Calls ``throw`` with as many examples as are asked for."""
    for number, begin in enumerate(range(0, EXAMPLES, ROUND)):
        wanted = min(ROUND, EXAMPLES - begin)
        many = settings(max_examples=wanted, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        many(seed(number)(given(*strategies)(throw)))()


def check(answer) -> None:
    """Refused or answered, in JSON; what is refused says why in a sentence."""
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert isinstance(answer.json["error"], str) and len(answer.json["error"]) < 2000
        assert "Traceback" not in answer.text


@pytest.mark.parametrize("endpoint", ["/predict", "/setup", "/webhook"])
def test_bodies(target, endpoint):
    def throw(body, kind, headers):
        check(target("POST", endpoint, data=body, content_type=kind, headers=headers))

    throw_many(throw, bodies(endpoint), TYPES, HEADERS)


def test_mutated_predictions_that_are_well_formed(target):
    """The same without noise around them, so that most get as far as prompts, pictures and labels."""
    reached = set()

    def throw(body):
        answer = target("POST", "/predict", data=body, content_type=JSON)
        check(answer)
        reached.add(answer.status_code)

    throw_many(throw, mutated("/predict"))
    assert {200, 400} <= reached


@pytest.mark.parametrize("endpoint", ["/health", "/ready", "/versions", "/metrics", "/frames/a/1.jpg", "/nowhere"])
def test_paths_and_queries(target, endpoint):
    methods = st.sampled_from(["GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "X"])

    def throw(method, tail, body, headers):
        answer = target(method, endpoint, query_string={"s": tail, "a": tail}, data=body, headers=headers)
        assert answer.status_code < 500
        answer = target(method, f"{endpoint}/{tail}".replace("?", "%3F").replace("#", "%23"), headers=headers)
        assert answer.status_code < 500

    throw_many(throw, methods, st.text(max_size=30), st.binary(max_size=50), HEADERS)
