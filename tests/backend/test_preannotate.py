"""Predictions in bulk: what is asked and sent, once each, in which order, and what is told when something is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fake_engine import FakeEngine
from label_studio_standin import TOKEN
from project_standin import LABELS, ProjectStandIn
from typer.testing import CliRunner

import backend.wsgi
from backend.cli import app
from backend.errors import LabelConfigError
from backend.label_config import parse_label_config
from backend.preannotate_engines import configured

HERE = Path(__file__).parent
VERSION = FakeEngine.version
PAGED = LABELS.replace('value="$image"', 'valueList="$frames"')


def flat(brightness: int, size=(24, 32)) -> np.ndarray:
    """A picture whose answer is wrong by brightness / 255, and that looks like all other flat ones."""
    return np.full((*size, 3), brightness, np.uint8)


def spotted(place: int, brightness: int = 255, size=(24, 32)) -> np.ndarray:
    """A dark picture with one of sixteen places bright: it looks like no other."""
    pixels = np.zeros((*size, 3), np.uint8)
    row, col = divmod(place, 4)
    pixels[row * size[0] // 4 : (row + 1) * size[0] // 4, col * size[1] // 4 : (col + 1) * size[1] // 4] = brightness
    return pixels


@pytest.fixture
def studio():
    server = ProjectStandIn()
    yield server
    server.close()


@pytest.fixture
def environment(studio, tmp_path) -> dict[str, str]:
    return {
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": TOKEN,
        "X2SAM_CACHE_DIR": str(tmp_path / "media"),
        "X2SAM_STATE_DIR": str(tmp_path / "state"),
    }


@pytest.fixture
def run(environment, monkeypatch):
    """Runs the command in this process with a stand-in engine; gives its result, with what was ``said``."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    engines = []

    def load(_settings, _directory=None):
        engines.append(FakeEngine())
        return engines[-1]

    monkeypatch.setattr(backend.wsgi, "load_engine", load)

    def command(*words: object, code: int = 0, folder: Path = Path(environment["X2SAM_STATE_DIR"])) -> dict:
        folder.mkdir(exist_ok=True)
        result = folder / "result.json"
        result.unlink(missing_ok=True)
        line = ["preannotate", "--project", 1, "--rate", 0, "--json", result, *words]
        done = CliRunner().invoke(app, [str(word) for word in line])
        assert done.exit_code == code, (done.output, done.exception)
        found = json.loads(result.read_text()) if result.exists() else {}
        return found | {"said": " ".join(done.output.split()), "engine": engines[-1] if engines else None}

    return command


def test_every_task_gets_one_prediction_and_the_most_useful_comes_first(studio, run):
    tasks = [studio.add(spotted(place, 60 + 10 * place)) for place in (3, 7, 1, 12)]
    done = run("--use")
    assert (done["sent"], done["masks"], done["failed"], done["model_version"]) == (4, 8, 0, VERSION)
    assert all(len(studio.of(task)) == 1 for task in tasks)
    (first,) = studio.of(tasks[0])
    assert {item["value"]["brushlabels"][0] for item in first["result"]} == {"cat", "dog"}
    # brighter is more wrong here, and none looks like another
    assert studio.order(VERSION) == [tasks[3], tasks[1], tasks[0], tasks[2]]
    assert studio.changes == {"model_version": VERSION, "sampling": "Uncertainty sampling"}
    again = run()
    assert (again["sent"], again["there"], again["rescored"]) == (0, 4, 0) and len(studio.predictions) == 4


def test_near_copies_do_not_come_in_a_row(studio, run):
    rng = np.random.default_rng(0)
    copies = [studio.add(np.clip(spotted(5, 250) + rng.integers(0, 4, (24, 32, 1)), 0, 255).astype(np.uint8))
              for _ in range(20)]  # fmt: skip
    others = [studio.add(spotted(place, 120)) for place in range(6, 16)]
    run()
    early = studio.order(VERSION)[: len(others) + 1]
    assert early[0] in copies and set(early[1:]) == set(others)


def test_what_was_annotated_is_known_and_what_looks_like_it_waits(studio, run):
    first, copy, other = studio.add(spotted(2, 200)), studio.add(spotted(2, 199)), studio.add(spotted(9, 100))
    run()
    assert studio.order(VERSION) == [first, other, copy]
    studio.annotated = {other}
    unlike = studio.add(spotted(13, 50))
    assert run("--tasks", "all")["sent"] == 1
    assert [task for task in studio.order(VERSION) if task != other] == [first, unlike, copy]


def test_tasks_in_which_nothing_is_found_are_told_and_not_asked_again(studio, run):
    studio.configs[1] = LABELS.replace("cat", "unseen").replace('<Label value="dog"/>', "")
    task = studio.add(flat(90))
    assert run()["empty"] == 1 and studio.of(task)[0]["result"] == []
    assert run()["there"] == 1 and len(studio.predictions) == 1


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ([], [1, 3, 4, 5]),
        (["--tasks", "all"], [1, 2, 3, 4, 5]),
        (["--tasks", "2,4-9"], [2, 4, 5]),
        (["--tasks", "split=b"], [4, 5]),
        (["--tasks", "unlabelled", "--tasks", "split=a"], [1, 3]),
        (["--budget", 2], [1, 5]),
        (["--budget", 3], [1, 4, 5]),  # of places 0, 1.5 and 3, rounded to even
    ],
)
def test_only_the_tasks_that_are_meant(studio, run, words, meant):
    for number in range(5):
        studio.add(flat(20 + number), split="a" if number < 3 else "b")
    studio.annotated = {2}
    assert run(*words)["sent"] == len(meant)
    assert sorted(one["task"] for one in studio.predictions.values()) == meant


def test_a_budget_is_for_new_predictions(studio, run):
    for number in range(4):
        studio.add(flat(20 + number))
    run("--budget", 2)
    assert run("--budget", 3)["sent"] == 2 and len(studio.predictions) == 4


def test_some_labels_or_a_text(studio, run):
    task = studio.add(flat(90))
    done = run("--labels", "Dog")
    assert done["engine"].asked[0][2].categories == ("dog",)
    done = run("--prompt", "cat: the grey one", "--model-version", "grey")
    assert done["engine"].asked[0][2].text == "the grey one" and done["model_version"] == "grey"
    labels = [[item["value"]["brushlabels"] for item in one["result"]] for one in studio.of(task)]
    assert labels == [[["dog"]], [["cat"]]]


@pytest.mark.parametrize("words", [[], ["--prompt", "dog: the square"]])
def test_clips_are_filled_over_all_pages(studio, run, words):
    studio.configs[1] = PAGED
    for number in range(3):
        studio.add(flat(30 * number + 30), name=f"page{number}.png")
    studio.all_tasks.clear()
    task = studio.add_task(frames=[f"/data/local-files/?d=page{number}.png" for number in range(3)])
    done = run(*words)
    (prediction,) = studio.of(task)
    pages = {item.get("item_index") for item in prediction["result"] if item["type"] == "brushlabels"}
    assert pages == {0, 1, 2} and done["masks"] == (3 if words else 6)
    # mean of the pages: 30, 60 and 90 of 255, alone in its project
    assert prediction["score"] == pytest.approx(1 - 60 / 255, abs=1e-4)


def test_another_question_about_a_clip_has_an_answer_of_its_own(studio, run, tmp_path):
    studio.configs[1] = PAGED
    for number in range(3):
        studio.add(flat(60), name=f"page{number}.png")
    studio.all_tasks.clear()
    task = studio.add_task(frames=[f"/data/local-files/?d=page{number}.png" for number in range(3)])
    run()
    run("--prompt", "dog: the square", "--model-version", "square")
    labels = [{row["value"]["brushlabels"][0] for row in one["result"]} for one in studio.of(task)]
    assert labels == [{"cat", "dog"}, {"dog"}]
    # of a run that ended only what scores are made of stays
    assert {path.suffix for path in (tmp_path / "state" / "preannotate").iterdir()} <= {".sqlite3", ".json"}


def test_a_task_that_fails_is_told_and_the_others_go_on(studio, run):
    tasks = [studio.add(flat(80)) for _ in range(3)]
    del studio.pictures["1.png"]
    done = run(code=1)
    assert done["sent"] == 2 and list(done["problems"]) == [str(tasks[1])] and f"task {tasks[1]}:" in done["said"]
    studio.add(flat(80), name="1.png")
    assert run()["sent"] == 2


def test_it_does_not_go_on_when_nothing_works(studio, run):
    for _ in range(30):
        studio.add(flat(80))
    studio.pictures.clear()
    done = run(code=2)
    assert "20 tasks in a row could not be answered" in done["said"] and "Traceback" not in done["said"]


def test_a_task_that_label_studio_refuses_is_told(studio, run):
    tasks = [studio.add(flat(80)) for _ in range(2)]
    studio.refused = {tasks[0]}
    done = run(code=1)
    assert done["sent"] == 1 and "400" in done["problems"][str(tasks[0])]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--labels", "bird"], "no label 'bird' for masks; it has cat, dog"),
        (["--tasks", "??"], "'??' is not understood"),
        (["--prompt", "the grey one"], "Which label do the masks get: cat, dog"),
        (["--engine", "cloud"], "no engine 'cloud'; choose one of local"),
        (["--project", "9"], "does not know project 9"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(studio, run, words, sentence):
    done = run(*words, code=2)
    assert sentence in done["said"] and done["engine"] is None


def test_tags_that_are_not_to_be_filled():
    off = LABELS.replace('name="brush"', 'name="brush" preannotate="off"')
    with pytest.raises(LabelConfigError, match="preannotate"):
        configured(parse_label_config(off))
    assert configured(parse_label_config(off), prompt="dog: it").is_text_prompt("preannotate")


def test_too_many_requests_are_waited_for_as_long_as_label_studio_asks(studio, run):
    studio.add(flat(80))
    studio.busy, studio.retry_after = 2, "1"
    start = time.monotonic()
    assert run()["sent"] == 1
    assert time.monotonic() - start >= 2 and studio.times[1] - studio.times[0] >= 1


def test_no_more_requests_in_a_second_than_allowed(studio, run):
    for _ in range(3):
        studio.add(flat(80))
    run("--rate", 20)
    # n requests take n - 1 times 50 ms at least
    assert studio.times[-1] - studio.times[0] >= 0.05 * (len(studio.times) - 1) - 0.01


def test_a_prediction_whose_answer_was_lost_is_not_sent_twice(studio, run):
    tasks = [studio.add(flat(80)) for _ in range(2)]
    studio.lost = 1
    assert run()["sent"] == 2
    assert [len(studio.of(task)) for task in tasks] == [1, 1]


def test_two_at_once_are_refused(studio, run, environment, tmp_path):
    from backend.preannotate import state_path
    from backend.preannotate_state import State

    studio.add(flat(80))
    held = State(state_path(tmp_path / "state" / "preannotate", studio.url, 1, VERSION))
    assert "Another run" in run(code=2)["said"]
    held.close()


def test_the_page_shows_the_worst_first_and_loads_nothing(studio, run, tmp_path):
    studio.configs[1] = LABELS.replace("cat", "&lt;b&gt;cat")
    tasks = [studio.add(spotted(place, 60 + 10 * place)) for place in (2, 11, 6)]
    assert run("--review", tmp_path / "page")["review"] == 3
    page = (tmp_path / "page" / "index.html").read_text()
    assert [int(number) for number in re.findall(r">task (\d+)<", page)] == [tasks[1], tasks[2], tasks[0]]
    assert page.count("data:image/jpeg;base64,") == 3 and "<b>cat" not in page and "&lt;b&gt;cat" in page
    assert not re.search(r"(src|href)=\"(?!data:|" + re.escape(studio.url) + ")", page)
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["index.html"]


def test_a_file_in_the_place_of_the_page_is_told(studio, run, tmp_path):
    studio.add(flat(80))
    (tmp_path / "page").write_text("")
    assert "choose another folder for --review" in run("--review", tmp_path / "page", code=2)["said"]


def test_a_run_that_was_killed_in_the_middle_of_a_clip_goes_on(studio, environment):
    studio.configs[1] = PAGED
    for number in range(9):
        studio.add(flat(20 * number + 30), name=f"page{number}.png")
    studio.all_tasks.clear()
    pages = [f"/data/local-files/?d=page{number}.png" for number in range(9)]
    tasks = [studio.add_task(frames=pages[3 * part : 3 * part + 3]) for part in range(3)]
    command = [sys.executable, str(HERE / "project_standin.py"), "preannotate", "--project", "1", "--rate", "0"]
    slow = os.environ | environment | {"SLOW": "0.3"}
    process = subprocess.Popen(command, env=slow, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not studio.predictions and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.4)  # the second clip is looked at now: three pages and more
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert len(studio.predictions) == 1
    subprocess.run(command, env=os.environ | environment, check=True, timeout=120)
    for task in tasks:
        (prediction,) = studio.of(task)
        rows = [(item["id"], item["item_index"]) for item in prediction["result"]]
        assert len(rows) == len(set(rows)) and {page for _, page in rows} == {0, 1, 2}


def test_a_killed_run_goes_on_without_sending_anything_twice(studio, environment, tmp_path):
    tasks = [studio.add(spotted(number % 16, 100 + number)) for number in range(14)]
    studio.slow_posts = 0.3  # stored, and not told yet: then most kills hit
    result = tmp_path / "result.json"
    command = [sys.executable, str(HERE / "project_standin.py"), "preannotate", "--project", "1", "--rate", "0"]
    for kill_at in (3, 8):
        process = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while len(studio.predictions) < kill_at and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        process.stderr.close()
        assert kill_at <= len(studio.predictions) < 14
    studio.slow_posts = 0
    subprocess.run([*command, "--json", str(result)], env=os.environ | environment, check=True, timeout=120)
    assert [len(studio.of(task)) for task in tasks] == [1] * 14
    done = json.loads(result.read_text())
    assert done["sent"] + done["there"] == 14 and done["there"] >= 8
    # the same order as without any kill: by brightness, two of a place apart
    assert all(0 <= one["score"] <= 1 for one in studio.predictions.values())
    assert studio.order(VERSION)[0] == tasks[13]
