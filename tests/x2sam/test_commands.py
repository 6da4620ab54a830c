"""``python -m x2sam``: every command end to end with the tiny network, its files, its JSON, its error texts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from x2sam.cli import app
from x2sam.commands.pictures import label_map, palette, read_object_masks, write_label_map
from x2sam.commands.track import Doubtful
from x2sam.data.scenes import generate_clip, generate_picture
from x2sam.errors import FramesError, PromptError
from x2sam.model.weights import save_pretrained

HEIGHT, WIDTH, FRAMES = 48, 64, 7


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, tiny_tokenizer) -> Path:
    """A directory with a model, a picture and a clip, under the names that the tests use."""
    path = tmp_path_factory.mktemp("commands")
    save_pretrained(tiny_model, path / "model")
    tiny_tokenizer.save_pretrained(path / "model" / "tokenizer")
    Image.fromarray(generate_picture(np.random.default_rng(1), (HEIGHT, WIDTH)).frames[0]).save(path / "picture.png")
    with av.open(str(path / "clip.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in generate_clip(np.random.default_rng(2), FRAMES, (HEIGHT, WIDTH)).frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    return path


@pytest.fixture
def call(place, monkeypatch, tmp_path):
    """Runs a command line in a new directory; ``@name`` stands for a file of ``place``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("X2SAM_HOME", str(tmp_path / "home"))

    def run(*words: object):
        line = [str(place / word[1:]) if str(word).startswith("@") else str(word) for word in words]
        return CliRunner().invoke(app, line)

    return run


def fine(outcome) -> None:
    assert outcome.exit_code == 0, (outcome.output, outcome.exception)


def loaded(path: str) -> dict:
    return json.loads(Path(path).read_text())


# segment


def test_segment_writes_masks_and_result(call):
    outcome = call(
        "segment", "@picture.png", "--point", "20,20", "--point", "50,40,0", "--model", "@model", "--json",
        "new/r.json", "--out", "map.png", "--overlay", "over.png",
    )  # fmt: skip
    fine(outcome)
    result = loaded("new/r.json")
    assert set(result) == {"model", "masks", "ms"} and {"load", "first"} <= set(result["ms"])
    assert re.fullmatch(r"tiny-[0-9a-f]{8}", result["model"])
    (mask,) = result["masks"]
    assert set(mask) == {"score", "area", "bbox", "phrase"}
    picture = Image.open("map.png")
    labels = np.asarray(picture)
    assert picture.mode == "P" and labels.shape == (HEIGHT, WIDTH) and set(np.unique(labels)) <= {0, 1}
    assert labels[20, 20] == 1 and labels[40, 50] == 0
    rows, cols = np.flatnonzero(labels.any(1)), np.flatnonzero(labels.any(0))
    assert mask["area"] == labels.sum()
    assert mask["bbox"] == [cols[0], rows[0], cols[-1] - cols[0] + 1, rows[-1] - rows[0] + 1]
    assert Image.open("over.png").size == (WIDTH, HEIGHT)
    assert sorted(p.name for p in Path("new").iterdir()) == ["r.json"]


def test_segment_by_words_names_the_phrase(call):
    fine(call("segment", "@picture.png", "--text", "red circle", "--model", "@model", "--json", "r.json"))
    assert {m["phrase"] for m in loaded("r.json")["masks"]} <= {"red circle"}


def test_every_box_is_an_object(call):
    boxes = ("--box", "2,2,20,20", "--box", "60,44,30,24")
    fine(call("segment", "@picture.png", *boxes, "--model", "@model", "--json", "r.json", "--out", "map.png"))
    masks = loaded("r.json")["masks"]
    assert len(masks) == 2
    for mask, (x0, y0, x1, y1) in zip(masks, ((2, 2, 20, 20), (30, 24, 60, 44)), strict=True):
        x, y, width, height = mask["bbox"]
        assert x0 - 4 <= x and y0 - 4 <= y and x + width <= x1 + 4 and y + height <= y1 + 4


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--point", "20"), 2, "X,Y"),
        (("--point", "20,nan"), 2, "X,Y"),
        (("--point", "20,20,3"), 2, "third number"),
        (("--box", "1,2,1,9"), 2, "no inside"),
        ((), 2, "say what to segment"),
        (("--point", "20,20", "--out", "map.jpg"), 2, ".png"),
        (("--point", "20,20", "--device", "abacus"), 2, "abacus"),
        (("--point", "900,20"), 1, "outside the picture of 64 x 48"),
        (("--point", "20,20,0"), 1, "click on the object first"),
    ],
)
def test_segment_tells_what_is_wrong(call, words, code, said):
    outcome = call("segment", "@picture.png", *words, "--model", "@model", "--json", "r.json")
    told = " ".join(outcome.stderr.replace("│", " ").split())
    assert outcome.exit_code == code and said in told, told
    assert "Traceback" not in outcome.output and not Path("r.json").exists()
    if code == 1:
        assert len(outcome.stderr.strip().splitlines()) == 1


def test_missing_files_are_told_in_one_line(call):
    for line, said in (
        (("segment", "nothing.png", "--point", "1,1", "--model", "@model"), "no file nothing.png"),
        (("segment", "@picture.png", "--point", "1,1", "--model", "elsewhere"), "no model 'elsewhere'"),
        (("segment", "@model/config.json", "--point", "1,1", "--model", "@model"), "config.json"),
        (("chat", "nothing.mp4", "what is it?", "--model", "@model"), "no file nothing.mp4"),
        (("train", "nothing.toml"), "nothing.toml can't be read"),
    ):
        outcome = call(*line)
        assert outcome.exit_code == 1 and said in outcome.stderr and len(outcome.stderr.strip().splitlines()) == 1


def test_a_gpu_that_is_not_there_is_refused(call, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    outcome = call("chat", "@picture.png", "hello", "--model", "@model", "--device", "cuda:1")
    assert outcome.exit_code == 2 and "cuda:1 is not there" in outcome.stderr


def test_a_full_device_is_told_in_one_line(call, monkeypatch):
    def fail(self, prompt):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr("x2sam.inference.session.Session.segment", fail)
    outcome = call("segment", "@picture.png", "--point", "1,1", "--model", "@model")
    assert outcome.exit_code == 1 and outcome.stderr.startswith("the device's memory is full")


def test_a_model_without_tokenizer_is_damaged(call, place):
    """And nothing is asked of the hub for it."""
    Path("half").mkdir()
    for name in ("model.safetensors", "config.json"):
        Path("half", name).symlink_to(place / "model" / name)
    outcome = call("chat", "@picture.png", "hello", "--model", "half")
    assert outcome.exit_code == 1 and "half has no tokenizer/tokenizer.json" in outcome.stderr


# track


def test_track_writes_every_frame(call):
    line = ("--frame", 3, "--point", "20,20", "--model", "@model", "--out", "maps", "--json", "r.json")
    fine(call("track", "@clip.mp4", *line))
    result = loaded("r.json")
    assert {"model", "frames", "fps", "peak_rss_mb", "objects"} <= set(result)
    assert result["frames"] == FRAMES and result["fps"] > 0 and result["peak_rss_mb"] > 50
    assert sorted(p.name for p in Path("maps").iterdir()) == [f"{i:05d}.png" for i in range(FRAMES)]
    for i in range(FRAMES):
        labels = np.asarray(Image.open(f"maps/{i:05d}.png"))
        assert labels.shape == (HEIGHT, WIDTH) and set(np.unique(labels)) <= {0, 1}
    assert result["look_at"] == []  # the published layout follows without the radar
    assert result["objects"][0]["area"] == (np.asarray(Image.open("maps/00003.png")) == 1).sum() > 0


def test_track_keeps_numbers_and_masks_of_a_label_map(call):
    given = np.zeros((HEIGHT, WIDTH), np.uint8)
    given[4:20, 4:20], given[30:44, 30:60], given[0, :] = 7, 2, 255
    write_label_map(Path("given.png"), given)
    fine(call("track", "@clip.mp4", "--frame", 2, "--mask", "given.png", "--model", "@model", "--out", "maps"))
    seen = np.asarray(Image.open("maps/00002.png"))
    assert (seen == np.where(given == 255, 0, given)).all()
    others = [np.asarray(Image.open(p)) for p in sorted(Path("maps").iterdir())]
    assert len(others) == FRAMES and set(np.unique(others)) <= {0, 2, 7}


@pytest.mark.parametrize(("direction", "expected"), [("forward", range(4, FRAMES)), ("backward", range(5))])
def test_track_goes_one_way_when_asked(call, direction, expected):
    line = ("--frame", 4, "--box", "5,5,40,40", "--direction", direction, "--memory", "fifo", "--out", "maps")
    fine(call("track", "@clip.mp4", *line, "--model", "@model", "--json", "r.json"))
    assert sorted(p.name for p in Path("maps").iterdir()) == [f"{i:05d}.png" for i in expected]
    assert loaded("r.json")["frames"] == len(expected) and loaded("r.json")["memory"] == "fifo"


def test_track_follows_what_words_found(call):
    fine(call("track", "@clip.mp4", "--frame", 1, "--text", "red circle", "--model", "@model", "--json", "r.json"))
    result = loaded("r.json")
    assert result["frames"] == FRAMES and [o["phrase"] for o in result["objects"]] == ["red circle"]


def test_the_most_doubtful_frames_come_first():
    doubtful = Doubtful(3)
    for frame, doubt in enumerate((0.2, None, 0.9, 0.1, 0.5, 0.2)):
        doubtful.add(frame, 1, doubt)
    found = [(row["frame"], row["doubt"]) for row in doubtful.worst_first()]
    assert found == [(2, 0.9), (4, 0.5), (0, 0.2)] and not Doubtful().worst_first()


def test_track_holds_no_frames(call, monkeypatch):
    """Each label map is on the disk before the next frame is computed."""
    from x2sam.inference.session import Session

    written = []
    original = Session.track

    def track(self, *args, **kwargs):
        for number, found in enumerate(original(self, *args, **kwargs)):
            written.append(len(list(Path("maps").glob("*.png"))) == number)
            yield found

    monkeypatch.setattr(Session, "track", track)
    fine(call("track", "@clip.mp4", "--point", "20,20", "--model", "@model", "--out", "maps"))
    assert written == [True] * FRAMES


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "say what to segment"),
        (("--mask", "m.png", "--point", "1,1"), 2, "not by both"),
        (("--point", "1,1", "--frame", "-1"), 2, "--frame"),
        (("--point", "1,1", "--memory", "elephant"), 2, "elephant"),
        (("--point", "1,1", "--frame", "70"), 1, "no frame 70"),
        (("--mask", "m.png"), 1, "m.png can't be read as a mask"),
        (("--text", "how many are there?"), 1, "nothing was found on frame 0"),
    ],
)
def test_track_tells_what_is_wrong(call, words, code, said):
    outcome = call("track", "@clip.mp4", *words, "--model", "@model")
    told = " ".join(outcome.stderr.replace("│", " ").split())
    assert outcome.exit_code == code and said in told, told


# chat


def test_chat_answers_in_words(call):
    outcome = call("chat", "@clip.mp4", "what is this?", "--model", "@model", "--json", "r.json")
    fine(outcome)
    result = loaded("r.json")
    assert set(result) == {"model", "answer", "ms"} and result["answer"] in outcome.stdout


# mask files


def test_label_maps_read_back():
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_label_map(Path("labels.png"), labels)
    picture = Image.open("labels.png")
    assert (np.asarray(picture) == labels).all()
    assert picture.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    assert set(read_object_masks(Path("labels.png"))) == set(range(1, 12))
    assert len(np.unique(palette(), axis=0)) == 256


def test_more_objects_than_a_byte_counts_go_to_16_bits():
    masks = list(np.eye(300, dtype=bool)[:, None])
    labels = label_map(masks, range(1, 301), (1, 300))
    write_label_map(Path("many.png"), labels)
    assert labels.dtype == np.uint16 and (np.asarray(Image.open("many.png")) == np.arange(1, 301)).all()


def test_the_first_mask_lies_on_top():
    first, second = np.array([[True, True, False]]), np.array([[False, True, True]])
    assert label_map([first, second], [1, 2], (1, 3)).tolist() == [[1, 1, 2]]


@pytest.mark.parametrize(
    ("values", "mode", "expected"),
    [
        ([[0, 255], [0, 255]], "L", {1: [[0, 1], [0, 1]]}),
        ([[0, 1], [1, 0]], "L", {1: [[0, 1], [1, 0]]}),
        ([[0, 1], [2, 0]], "L", {1: [[0, 1], [0, 0]], 2: [[0, 0], [1, 0]]}),
        ([[0, 90], [200, 255]], "L", {1: [[0, 0], [1, 1]]}),
    ],
)
def test_masks_of_other_programs_are_understood(values, mode, expected):
    Image.fromarray(np.array(values, np.uint8)).convert(mode).save("mask.png")
    assert {k: v.astype(int).tolist() for k, v in read_object_masks(Path("mask.png")).items()} == expected


def test_a_mask_file_must_mark_something():
    Image.fromarray(np.zeros((4, 4), np.uint8)).save("empty.png")
    with pytest.raises(PromptError, match=r"empty\.png marks nothing"):
        read_object_masks(Path("empty.png"))
    Path("text.png").write_text("no picture")
    with pytest.raises(FramesError, match=r"text\.png can't be read"):
        read_object_masks(Path("text.png"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# train and evaluate


TRAINING = """
[model]
preset = "tiny"
vocabulary = 640
[loop]
steps = 3
directory = "run"
"""


@pytest.fixture
def training(monkeypatch):
    """Arguments of every training that was started, none of which is run."""
    calls = []

    def train(config, resume, device):
        calls.append((config, resume, device))
        return Path(config.loop.directory) / "model"

    monkeypatch.setattr("x2sam.training.train.train", train)
    Path("run.toml").write_text(TRAINING)
    return calls


def test_train_hands_the_configuration_on(call, training):
    fine(call("train", "run.toml", "--device", "cpu", "--json", "r.json"))
    ((config, resume, device),) = training
    assert (config.model.preset, config.loop.steps, resume, device) == ("tiny", 3, False, "cpu")
    assert loaded("r.json")["directory"] == "run/model"


def test_train_does_not_write_over_another_run(call, training):
    Path("run/states/step-00000012").mkdir(parents=True)
    outcome = call("train", "run.toml", "--device", "cpu")
    assert outcome.exit_code == 1 and "--resume" in outcome.stderr and not training
    fine(call("train", "run.toml", "--device", "cpu", "--resume"))
    assert training[0][1] is True


def test_each_process_of_a_group_takes_its_gpu(call, training, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    fine(call("train", "run.toml"))
    assert training[0][2] == "cuda:3"


def test_train_names_a_setting_that_does_not_exist(call):
    Path("run.toml").write_text("[loop]\nstep = 3\n")
    outcome = call("train", "run.toml")
    assert outcome.exit_code == 1 and "step" in outcome.stderr


def test_evaluate_hands_everything_on(call, monkeypatch):
    outcome = call("evaluate", "clicks", "--help")
    assert outcome.exit_code == 0 and "--no-snap" in outcome.output
    assert call("evaluate", "clicks").exit_code == 2


def test_the_other_commands_work_without_evaluation():
    """Also: help needs no PyTorch, so that it is there at once."""
    program = (
        "import sys; sys.modules['x2sam.evaluation'] = None; sys.modules['torch'] = None\n"
        "from x2sam.cli import app\napp(['segment', '--help'])"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert done.returncode == 0 and "--point" in done.stdout, done.stderr
