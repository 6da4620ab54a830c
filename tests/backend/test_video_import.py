"""Videos to tasks: pages, ranges, rates; stopped and repeated runs; uploads; keys and addresses renewed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from label_studio_standin import PAGES, TOKEN, LabelStudioStandIn, personal_token
from typer.testing import CliRunner
from video_clips import number_in, write_clip, write_cut_clip

from backend.cli import app
from backend.errors import SettingsError
from backend.label_studio_api import LabelStudioApi
from backend.settings import Settings
from backend.video_addresses import frame_address, split_address
from backend.video_frames import VideoFrames
from backend.video_import import renewed_data
from backend.video_library import VideoLibrary
from backend.video_pages import Clip, overlapping_tasks, parse_range, pick_frames, plan_clips
from x2sam.data.video_index import SLACK

BASE = "http://pages.test:9090"


@pytest.fixture
def label_studio():
    server = LabelStudioStandIn()
    yield server
    server.close()


@pytest.fixture
def environment(label_studio, tmp_path, monkeypatch):
    values = {
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": TOKEN,
        "BACKEND_PUBLIC_URL": BASE,
        "X2SAM_STATE_DIR": str(tmp_path / "state"),
        "X2SAM_CACHE_DIR": str(tmp_path / "cache"),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


@pytest.fixture
def video(environment):
    """Runs ``python -m backend video ...``."""

    def run(*words, code=0):
        result = CliRunner().invoke(app, ["video", *map(str, words)])
        assert result.exit_code == code, result.output
        return result.output

    return run


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mp4")


@pytest.fixture
def library(environment):
    return VideoLibrary(Path(environment["X2SAM_STATE_DIR"]))


def frames_of(task):
    return [split_address(address)[1] for address in task["data"]["frames"]]


def test_an_import(video, label_studio, clip, tmp_path):
    told = video("import", clip, "--project", 1, "--pages", 8, "--json", tmp_path / "out.json")
    assert "20 pages in project 1, 3 tasks made." in told and BASE in told
    tasks = label_studio.tasks()
    assert [frames_of(task) for task in tasks] == [list(range(8)), list(range(8, 16)), list(range(16, 20))]
    written = json.loads((tmp_path / "out.json").read_text())
    (entry,) = written["videos"]
    assert (entry["tasks"], entry["created"], entry["pages"], entry["fps"]) == ([1, 2, 3], 3, 20, 10.0)
    data = tasks[1]["data"]
    assert {key: data[key] for key in data if key != "frames"} == {
        "video_id": entry["video_id"],
        "video_name": "clip.mp4",
        "video_fps": 10.0,
        "start_frame": 8,
        "source_frames": "8-15",
    }
    frames = VideoFrames.of(Settings.from_environment())
    for task in tasks:
        for address in task["data"]["frames"]:
            assert address.startswith(f"{BASE}/frames/")
            found = frames.find(address)
            assert number_in(frames.read(*found)) == found[1]


def test_a_second_run_makes_nothing(video, label_studio, clip):
    video("import", clip, "--project", 1, "--pages", 8)
    label_studio.calls.clear()
    assert "0 tasks made, 3 were there." in video("import", clip, "--project", 1, "--pages", 8)
    assert not [call for call in label_studio.calls if not call.startswith("GET")]


def test_a_stopped_run_goes_on(video, label_studio, clip, monkeypatch):
    monkeypatch.setattr("backend.video_import._TASKS_PER_REQUEST", 2)
    label_studio.break_after = 2
    told = video("import", clip, "--project", 1, "--pages", 3, code=1)
    assert "clip.mp4: Label Studio answered 500" in told
    assert len(label_studio.tasks()) == 4
    label_studio.break_after = None
    assert "3 tasks made, 4 were there." in video("import", clip, "--project", 1, "--pages", 3)
    assert sorted(frame for task in label_studio.tasks() for frame in frames_of(task)) == list(range(20))


def test_an_answer_that_got_lost_makes_nothing_twice(video, label_studio, clip, monkeypatch):
    monkeypatch.setattr("backend.video_import._TASKS_PER_REQUEST", 2)
    label_studio.break_after, label_studio.late = 1, True
    assert "answered 504" in video("import", clip, "--project", 1, "--pages", 3, code=1)
    assert len(label_studio.tasks()) == 4  # the second request was done all the same
    label_studio.break_after = None
    assert "3 tasks made, 4 were there." in video("import", clip, "--project", 1, "--pages", 3)
    assert sorted(frame for task in label_studio.tasks() for frame in frames_of(task)) == list(range(20))


def test_one_import_at_a_time(video, label_studio, clip, library):
    with library.alone(f"{label_studio.url} 1"):
        assert "Another import" in video("import", clip, "--project", 1, code=1)
    video("import", clip, "--project", 1)
    assert len(label_studio.tasks()) == 1


def test_a_personal_token_is_exchanged_and_renewed(video, label_studio, clip, monkeypatch, environment):
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", personal_token())
    api = LabelStudioApi(Settings.from_environment())
    assert api.project(1)["id"] == 1
    label_studio.expired += 1
    assert api.project(1)["id"] == 1
    video("import", clip, "--project", 1)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", personal_token() + "x")
    refusal = video("import", clip, "--project", 1, code=1)
    assert "does not accept the personal token in LABEL_STUDIO_API_KEY" in " ".join(refusal.split())


def test_a_deleted_task_comes_back(video, label_studio, clip):
    video("import", clip, "--project", 1, "--pages", 8)
    del label_studio.all_tasks[1]
    assert "1 tasks made, 2 were there." in video("import", clip, "--project", 1, "--pages", 8)
    assert sorted(task["data"]["start_frame"] for task in label_studio.tasks()) == [0, 8, 16]


def test_frames_that_are_in_tasks_already(video, label_studio, clip, tmp_path):
    video("import", clip, "--project", 1, "--pages", 8)  # 0-7, 8-15, 16-19
    told = video("import", clip, "--project", 1, "--range", "6:12", "--json", tmp_path / "o")
    assert "clip.mp4: 2 tasks that were there show some of the same frames" in " ".join(told.split())
    assert json.loads((tmp_path / "o").read_text())["videos"][0]["overlapping"] == 2
    # the task with 6-11 now overlaps two of three tasks that are wanted again
    assert "1 tasks that were there" in video("import", clip, "--project", 1, "--pages", 8)
    assert "tasks that were there" not in video("import", clip, "--project", 1, "--fps", 5), "another grid of frames"


@pytest.mark.parametrize("span", ["", "7", "a-b", "5-", "1-2-3", None, "9" * 30 + "-1"])
def test_spans_that_somebody_wrote_by_hand(span):
    clip = Clip(0, (0, 1, 2))
    assert overlapping_tasks([(5.0, 0, span)], {(5.0, 0, "0-2"): clip}) == 0


def test_rate_and_range(video, label_studio, clip):
    video("import", clip, "--project", 1, "--fps", 5, "--pages", 4, "--range", "6:16")
    tasks = label_studio.tasks()
    assert [frames_of(task) for task in tasks] == [[6, 8, 10, 12], [14]]
    assert [(t["data"]["start_frame"], t["data"]["video_fps"], t["data"]["source_frames"]) for t in tasks] == [
        (3, 5.0, "6-12"),
        (7, 5.0, "14-14"),
    ]


def test_several_files_and_a_broken_one(video, label_studio, clip, tmp_path):
    (tmp_path / "broken.mp4").write_text("no video")
    other = write_clip(tmp_path / "other.mp4", count=3, shift=50)
    told = video("import", clip, tmp_path / "broken.mp4", other, "--project", 1, "--json", tmp_path / "o", code=1)
    assert "broken.mp4: broken.mp4 can't be read as a video" in told.replace("\n", " ")
    assert len(label_studio.tasks()) == 2
    assert json.loads((tmp_path / "o").read_text())["failed"] == ["broken.mp4"]


def test_a_video_that_ends_early(video, label_studio, tmp_path):
    cut = write_cut_clip(tmp_path / "cut.mp4")
    told = video("import", cut, "--project", 1, "--json", tmp_path / "o")
    (entry,) = json.loads((tmp_path / "o").read_text())["videos"]
    assert 0 < entry["pages"] < 60
    assert entry["missing_seconds"] == pytest.approx(6 - entry["pages"] / 10, abs=1e-3), "ten frames a second"
    assert f"cut.mp4 ends early: its last {entry['missing_seconds']:.1f} s" in " ".join(told.split())
    frames = VideoFrames.of(Settings.from_environment())
    numbers = [number_in(frames.read(*frames.find(a))) for task in label_studio.tasks() for a in task["data"]["frames"]]
    assert numbers == list(range(entry["pages"])), "everything before it is there"


def test_uploads(video, label_studio, clip):
    video("import", clip, "--project", 1, "--pages", 12, "--upload")
    assert len(label_studio.files) == 20
    stored = {f"/data/{name}": content for _, name, content in label_studio.files}
    pages = [address for task in label_studio.tasks() for address in task["data"]["frames"]]
    assert [number_in(stored[address]) for address in pages] == list(range(20))


def test_a_stopped_upload_sends_nothing_twice(video, label_studio, clip):
    label_studio.break_after = 2
    video("import", clip, "--project", 1, "--pages", 20, "--upload", code=1)
    assert len(label_studio.files) == 16 and not label_studio.tasks()
    label_studio.break_after = None
    video("import", clip, "--project", 1, "--pages", 20, "--upload")
    assert len(label_studio.files) == 20 and len(label_studio.tasks()) == 1
    video("import", clip, "--project", 1, "--pages", 20, "--upload")
    assert len(label_studio.files) == 20 and len(label_studio.tasks()) == 1


def test_what_is_wrong_is_told(video, label_studio, clip, monkeypatch):
    assert "does not know project 7" in video("import", clip, "--project", 7, code=1)
    label_studio.configs[2] = '<View><Image name="image" value="$image"/></View>'
    assert "valueList" in video("import", clip, "--project", 2, code=1)
    label_studio.configs[2] = PAGES.replace("$frames", "$video_id")
    assert "'video_id'" in video("import", clip, "--project", 2, code=1)
    assert "no frames in it" in video("import", clip, "--project", 1, "--range", "9:9", code=2)
    assert "no frame in" in video("import", clip, "--project", 1, "--range", "99:", code=1)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "wrong")
    assert "LABEL_STUDIO_API_KEY" in video("import", clip, "--project", 1, code=1)
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("backend.label_studio_api._TRIES", 1)
    assert "LABEL_STUDIO_URL" in video("import", clip, "--project", 1, code=1)
    assert not label_studio.tasks()


def test_an_overloaded_label_studio_is_asked_again(video, label_studio, clip, monkeypatch):
    monkeypatch.setattr("backend.label_studio_api.time.sleep", lambda seconds: None)
    label_studio.failures = 2
    video("import", clip, "--project", 1)
    assert len(label_studio.tasks()) == 1


def test_the_key_is_rotated(video, label_studio, clip, library):
    label_studio.configs[2] = PAGES
    video("import", clip, "--project", 1, "--pages", 8)
    video("import", clip, "--project", 2, "--pages", 8)
    before = {task["id"]: task["data"] for task in label_studio.all_tasks}
    (old,) = library.keys()
    label_studio.break_after = 2
    video("rotate-key", code=2)
    assert len(library.keys()) == 2  # half the tasks are still signed with the old one
    frames = VideoFrames.of(Settings.from_environment())
    assert all(frames.find(address) for task in label_studio.all_tasks for address in task["data"]["frames"])
    label_studio.break_after = None
    assert "4 tasks have new addresses." in video("rotate-key")
    (new,) = library.keys()
    assert new != old
    for task in label_studio.all_tasks:
        assert all(frames.find(address) for address in task["data"]["frames"])
        assert not any(frames.find(address) for address in before[task["id"]]["frames"])
        assert {**task["data"], "frames": 0} == {**before[task["id"]], "frames": 0}
    assert "0 tasks made, 3 were there." in video("import", clip, "--project", 1, "--pages", 8)


def test_a_project_that_is_gone_holds_nobody_up(video, label_studio, clip, library):
    label_studio.configs[2] = PAGES
    video("import", clip, "--project", 2)
    del label_studio.configs[2]
    assert "Project 2 is not there any more." in video("rotate-key")
    assert len(library.keys()) == 1


def test_another_label_studio_keeps_the_old_key(video, label_studio, clip, library):
    video("import", clip, "--project", 1)
    library.remember_place("http://elsewhere", 5)
    assert "project 5 of http://elsewhere" in video("rotate-key", code=1)
    assert len(library.keys()) == 2


def test_a_new_public_address(video, label_studio, clip, monkeypatch):
    video("import", clip, "--project", 1)
    monkeypatch.setenv("BACKEND_PUBLIC_URL", "https://new.test/x2sam")
    assert "1 tasks have new addresses." in video("renew")
    assert all(a.startswith("https://new.test/x2sam/frames/") for a in label_studio.tasks()[0]["data"]["frames"])
    assert "0 tasks have new addresses." in video("renew")


def test_foreign_addresses_are_not_signed():
    keys, video_id = [b"new", b"old"], "0" * 16
    mine, forged = (frame_address(BASE, key, video_id, 1) for key in (b"old", b"forged"))
    data = {"frames": [mine, forged, "/data/upload/1/a.jpg"], "deep": [[mine]], "number": 3, "text": "frames"}
    new = frame_address("http://n", b"new", video_id, 1)
    assert renewed_data(data, "http://n", keys) == {**data, "frames": [new, forged, data["frames"][2]], "deep": [[new]]}


@given(st.integers(1, 400), st.integers(1, 60), st.integers(0, 450), st.one_of(st.none(), st.integers(1, 450)))
def test_clips_cover_the_range_once(count, pages, start, length):
    part = slice(start, None if length is None else start + length)
    clips = plan_clips(np.arange(count), pages, part)
    covered = [frame for clip in clips for frame in clip.frames]
    assert covered == list(range(count))[part]
    assert all(len(clip.frames) <= pages and clip.start == clip.frames[0] for clip in clips)


@given(st.lists(st.floats(0.001, 0.4), min_size=0, max_size=80), st.floats(0.5, 80))
@example([0.357421875, 0.16015625, 0.11328125, 0.10439669508037219, 0.09866183501847764, 0.25], 6.0)
def test_picked_frames_are_those_on_the_screen(steps, fps):
    times = np.concatenate([[0.0], np.cumsum(steps)])
    picked = pick_frames(times, fps)
    assert picked[0] == 0 and (np.diff(picked) > 0).all()
    for moment in np.arange(0, times[-1], 1 / fps)[:-1]:
        # one that begins less than a millisecond late may count as shown already
        shown = np.searchsorted(times, (moment, moment + SLACK), side="right") - 1
        assert set(picked) & {*range(shown[0], shown[1] + 1)}


def test_a_higher_rate_than_the_video_has_takes_every_frame():
    times = np.round(np.arange(100) / 23.976, 6)
    assert pick_frames(times, 60).tolist() == list(range(100))
    assert pick_frames(times, 23.976).tolist() == list(range(100))
    assert pick_frames(times).tolist() == list(range(100))
    assert pick_frames(np.arange(48) / 24, 12).tolist() == list(range(0, 48, 2))


def test_a_later_range_lies_on_the_same_grid():
    picked = pick_frames(np.arange(240) / 24, 10)
    whole = plan_clips(picked, 300, slice(0, None))[0].frames
    part = plan_clips(picked, 300, slice(101, 180))[0]
    assert part.frames == tuple(frame for frame in whole if 101 <= frame < 180)
    assert whole[part.start] == part.frames[0]


def test_ranges():
    assert [parse_range(text) for text in (None, "3:9", "3:", ":9", ":")] == [
        slice(0, None), slice(3, 9), slice(3, None), slice(0, 9), slice(0, None),
    ]  # fmt: skip
    for text in ("", "5", "a:b", "-1:4", "9:3", "4:4", "1:2:3", "1.5:3"):
        with pytest.raises(SettingsError):
            parse_range(text)
    assert plan_clips(np.arange(4), 3, slice(0, None)) == [Clip(0, (0, 1, 2)), Clip(3, (3,))]
