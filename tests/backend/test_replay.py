"""Recorded prompts and their replay: what a recording holds, what ends it, and what a replay finds out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_engine import FakeEngine
from recorded_session import COMMENT, NAME, PERSON, SAMPLES, RecordingServer, bodies, hold_session
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner
from workplace import NANO

from backend.app import close_app, create_app
from backend.cli import app as commands
from backend.errors import RecordingError, SettingsError
from backend.recorder import SUFFIX
from backend.replay import Replay, find_media, first_difference, read_recording
from backend.replay_command import settings_for
from backend.settings import Settings

COMMITTED = Path(__file__).parent / "data" / f"session{SUFFIX}"
ASKED = 7
nano = pytest.mark.skipif(not NANO.is_file(), reason="x2sam/checkpoints/nano is not there")


def served(settings, engine=None):
    app = create_app(settings, lambda: engine or FakeEngine())
    app.extensions["x2sam"].engines.wait(5)
    return app


def session(app):
    """Asks everything of the session; the answers' result items."""
    client, answers = app.test_client(), []
    for body in bodies(answers):
        reply = client.post("/predict", json=body)
        assert reply.status_code == 200, reply.json
        answers.append(reply.json["results"][0].get("result", []))
    return answers


@pytest.fixture
def recorded(settings, tmp_path):
    """A function that records the session, with settings changed; the server's app, closed, and the file."""

    def record(engine=None, hold=session, **changes):
        folder = tmp_path / "recordings"
        app = served(replace(settings, media_dirs=(str(SAMPLES),), record_dir=str(folder), **changes), engine)
        hold(app)
        close_app(app)
        return app, next(iter(folder.glob(f"*{SUFFIX}")), None)

    return record


def replayed(path, tmp_path, engine=None, here=None):
    recording = read_recording(path)
    place = tmp_path / "place"
    place.mkdir()
    names = find_media(recording, path, [SAMPLES], place)
    app = served(settings_for(recording.head, Settings(), tmp_path / "replay", place, None), engine)
    try:
        return Replay(app, recording, names, recording.head | (here or {})).run(lambda *_: None)
    finally:
        close_app(app)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_nothing_is_recorded_unless_somebody_says_where(settings, tmp_path):
    app = served(replace(settings, media_dirs=(str(SAMPLES),)))
    session(app)
    assert not app.extensions["x2sam"].recorder.recording
    numbers = app.test_client().get("/metrics").get_data(as_text=True)
    close_app(app)
    assert "x2sam_recording 0.0" in numbers and "x2sam_recorded_requests_total 0.0" in numbers
    assert not list(tmp_path.rglob(f"*{SUFFIX}"))


def test_prompts_are_recorded_and_neither_names_nor_tokens(recorded):
    _, path = recorded()
    text = path.read_text()
    assert "the chair" in text, "a typed text is a prompt"
    for secret in (PERSON, COMMENT, NAME, "hidden", "stop_sign.jpg", str(SAMPLES)):
        assert secret not in text
    assert (path.stat().st_mode & 0o777) == 0o600
    rows = [line for line in lines(path) if "asked" in line]
    assert [row["asked"] for row in rows] == list(range(1, ASKED + 1))
    assert rows[2]["tasks"][0]["drafts"][0]["user"] == 1, "people are numbers"
    # five pictures, of which the pages of the clip name two again; pictures themselves are not kept
    assert sorted(line["media"] for line in lines(path) if "media" in line) == [1, 2, 3, 4]
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    masks = [line for line in lines(path) if "kept" in line and isinstance(line["value"], list)]
    assert len(masks) == 1, "the mask in the draft, once"


def test_pictures_are_kept_where_that_is_wanted(recorded, tmp_path):
    _, path = recorded(record_media=True)
    recording = read_recording(path)
    (tmp_path / "place").mkdir()
    assert len(find_media(recording, path, [], tmp_path / "place")) == 4
    shutil.rmtree(path.parent / "media")
    with pytest.raises(RecordingError, match=r"4 of 4 pictures .* --media"):
        find_media(recording, path, [], tmp_path / "place")


def test_the_same_engine_gives_the_same_bytes(recorded, tmp_path):
    _, path = recorded()
    done = replayed(path, tmp_path)
    assert done.holds and done.counts == {"identical": ASKED, "close": 0, "different": 0, "depends": 0}
    assert [one.kind for one in done.requests] == ["first", "next", "next", "first", "words", "track", "first"]
    assert done.times()["first"]["n"] == 3


class Shifted(FakeEngine):
    """Its masks of prompts are a little larger."""

    def open(self, frames, key=None):
        session = super().open(frames, key)
        segment = session.segment

        def larger(*args, **kwargs):
            found = segment(*args, **kwargs)
            for mask in found:
                ys, xs = np.nonzero(mask.mask)
                mask.mask[ys.min(), xs.min() - 1] = True
            return found

        session.segment = larger
        return session


def test_another_mask_is_named_and_tolerated_only_where_sums_are_rounded_otherwise(recorded, tmp_path):
    _, path = recorded()
    strict = replayed(path, tmp_path, Shifted())
    first = strict.requests[0]
    assert not strict.holds and first.verdict == "different"
    assert first.difference.startswith("item 1 (obj") and "another mask, IoU 0.99" in first.difference
    (tmp_path / "other").mkdir()
    close = replayed(path, tmp_path / "other", Shifted(), {"processor": "another one"})
    assert close.rounding["processor"][1] == "another one"
    assert close.requests[0].verdict == "close" and close.counts["different"] == 0 and close.holds


def line(name, mask, sha):
    from pycocotools import mask as coco

    packed = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"id": name, "tag": "mask", "sha256": sha, "size": packed["size"], "counts": packed["counts"].decode()}


def test_what_counts_as_rounding():
    whole, less, half = np.ones((10, 20), bool), np.ones((10, 20), bool), np.ones((10, 20), bool)
    less[0, :2], half[:5] = False, False
    was = [line("a-0000", whole, "1")]
    assert first_difference(was, [line("a-0000", less, "2")]) == (
        "item 1 (a-0000, mask): another mask, IoU 0.9900", True,
    )  # fmt: skip
    assert first_difference(was, [line("a-0000", half, "2")]) == (
        "item 1 (a-0000, mask): another mask, IoU 0.5000", False,
    )  # fmt: skip
    assert first_difference(was, []) == ("0 items instead of 1: a-0000 is not in it", False)
    words = [{"id": "reply-0000", "tag": "reply", "sha256": sha, "words": told} for sha, told in ("1x", "2x", "3y")]
    assert first_difference(words[:1], words[1:2]) == (
        "item 1 (reply-0000, reply): another number in the sentence", True,
    )  # fmt: skip
    assert not first_difference(words[:1], words[2:])[1]


def test_what_was_known_before_is_told_apart(recorded, settings, tmp_path):
    """The journal of an earlier process knows tasks that the recording does not."""
    early = served(replace(settings, media_dirs=(str(SAMPLES),)))
    first = next(iter(bodies([])))
    early.test_client().post("/predict", json=first)
    close_app(early)
    _, path = recorded()
    rows = [line for line in lines(path) if "asked" in line]
    # the sign was asked about; a person may have seen an answer that no line tells of
    assert [row["depends"] for row in rows] == [["earlier"]] * 3 + [[]] * 4
    done = replayed(path, tmp_path, Shifted())
    assert [one.verdict for one in done.requests[:3]] == ["depends"] * 3 and done.counts["different"]


def test_recording_ends_where_the_folder_is_full(recorded, caplog):
    app, path = recorded(record_bytes=6_000)
    assert path.stat().st_size <= 6_000
    recorder = app.extensions["x2sam"].recorder
    assert "X2SAM_RECORD_MB" in recorder.problem and recorder.problem in caplog.text
    whole = read_recording(path)
    assert len(whole.rows) < ASKED and not whole.cut


def test_requests_that_nobody_thought_of_are_answered(recorded):
    def hold(app):
        client = app.test_client()
        body = next(iter(bodies([])))
        odd = {"type": "brushlabels", "value": {"rle": [1 << 70]}}
        body["tasks"][0] |= {"id": {"a": 1}, "drafts": [{"result": [odd]}]}
        assert client.post("/predict", json=body).status_code == 200
        body["label_config"] = "<View>"
        assert client.post("/predict", json=body).status_code == 422
        assert client.post("/predict", json={"tasks": []}).status_code == 400

    app, path = recorded(hold=hold)
    assert not app.extensions["x2sam"].recorder.problem
    rows = read_recording(path).rows
    assert [("answer" in row, row.get("refused")) for row in rows] == [(True, None), (False, 422)]


@pytest.mark.parametrize("damage", ["", "nonsense\n", '{"recording": 99}\n', '{"recording": 1}\nnonsense\n', "[]\n"])
def test_what_is_no_recording_is_told(tmp_path, damage):
    path = tmp_path / f"x{SUFFIX}"
    path.write_text(damage)
    with pytest.raises(RecordingError, match="no recording"):
        read_recording(path)


def test_it_belongs_to_one_process():
    with pytest.raises(SettingsError, match="X2SAM_RECORD_DIR"):
        Settings(engine="ray", record_dir="/somewhere")


@nano
def test_a_killed_server_leaves_a_recording_that_replays_to_the_same_bytes(tmp_path):
    server = RecordingServer(tmp_path)
    try:
        server.wait()
        hold_session(server.url)
        path = server.recording(ASKED)
    finally:
        server.kill()
    with path.open("ab") as file:
        file.write(b'{"asked":8,"at":')  # a line that the kill cut
    result = tmp_path / "result.json"
    command = ["replay", str(path), "--media", str(SAMPLES), "--model", "nano", "--json", str(result)]
    done = CliRunner().invoke(commands, command)
    told = json.loads(result.read_text())
    assert done.exit_code == 0 and told["holds"], done.output
    assert told["counts"]["identical"] == ASKED and not told["rounding"]
    assert told["ms"]["track"]["replayed"]["p50"] > 0
    assert "last line" in done.output


@nano
def test_the_committed_recording_replays_and_other_weights_are_told(tmp_path):
    """On another processor rounding may differ: then masks overlap instead, which the command says."""
    command = ["replay", str(COMMITTED), "--media", str(SAMPLES)]
    done = CliRunner().invoke(commands, [*command, "--model", "nano"])
    assert done.exit_code == 0, done.output
    assert f"{ASKED} requests: {ASKED} identical." in done.output or "rounded otherwise" in done.output
    other = tmp_path / "other"
    shutil.copytree(NANO.parent, other)
    weights = load_file(other / NANO.name)
    name = next(name for name in sorted(weights) if weights[name].ndim > 1)
    save_file(weights | {name: weights[name] * np.float32(1.01)}, other / NANO.name)
    few = tmp_path / f"few{SUFFIX}"
    few.write_text("".join(COMMITTED.read_text().splitlines(keepends=True)[:4]))
    done = CliRunner().invoke(commands, ["replay", str(few), "--media", str(SAMPLES), "--model", str(other)])
    assert done.exit_code == 1 and "The weights are others" in done.output, done.output
