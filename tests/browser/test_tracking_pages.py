"""A clip from its import to the saved annotation: an object is prompted on one page, tracked over all of them, mended
by hand on another, tracked again, and submitted. The model is the embedded one, and the clip's truth is known."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from label_studio_server import ChildServer, free_port
from PIL import Image
from saved_masks import on_pages
from video_place import VideoPlace
from workplace import NANO, ROOT, Workplace

PAGES, HEIGHT, WIDTH, RADIUS = 24, 240, 320, 28
CLICKED, LOOKED_AT, EDITED = 4, (0, 19), 11  # pages 5, 1, 20 and 12, as the editor counts
CONTROL, LABEL = "track_point", "Object 1"

pytestmark = pytest.mark.skipif(not NANO.is_file(), reason="x2sam/checkpoints/nano is not there")


def middle(page: int) -> tuple[float, float]:
    return 60 + 8.5 * page, 130 + 30 * np.sin(page / 4)


def disc(x: float, y: float, radius: float) -> np.ndarray:
    """bool (H, W)"""
    rows, cols = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return (cols - x) ** 2 + (rows - y) ** 2 < radius**2


def ball(page: int) -> np.ndarray:
    """The truth, bool (H, W)."""
    return disc(*middle(page), RADIUS)


def hat(page: int) -> np.ndarray:
    """What sits on the ball and does not belong to it, bool (H, W). The model takes it along."""
    x, y = middle(page)
    return disc(x, y - RADIUS - 6, 16) & ~ball(page)


def write_clip(path: Path) -> Path:
    """A red ball with a yellow hat, moving over an uneven ground."""
    rows, cols = np.mgrid[:HEIGHT, :WIDTH]
    ground = np.stack([40 + rows // 8, 90 + 25 * np.sin(cols / 29), 60 + 20 * np.cos(rows / 17)], -1).astype(np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"crf": "12", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for page in range(PAGES):
            picture = ground.copy()
            picture[ball(page)] = (210, 60, 40)
            picture[hat(page)] = (235, 210, 60)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    return path


@pytest.fixture
def clip(nano, tmp_path):
    return imported(nano, tmp_path)


@pytest.fixture
def hasty(nano, tmp_path) -> Iterator[Workplace]:
    """A backend with the embedded model that waits for tracks for a second only."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    own = {name: str(tmp_path / name) for name in ("X2SAM_STATE_DIR", "X2SAM_CACHE_DIR")}
    environment = nano.environment | own | {"BACKEND_PUBLIC_URL": url, "X2SAM_TRACK_SECONDS": "1"}
    command = [sys.executable, "-m", "backend", "serve", "--port", str(port), "--model", "nano"]
    server = ChildServer("the ML backend", command, tmp_path / "backend.log", f"{url}/ready", environment, ROOT)
    try:
        server.wait_ready(180)
        yield replace(nano, url=url, environment=environment, projects={})
    finally:
        server.stop()


def imported(backend: Workplace, folder: Path) -> tuple[int, int]:
    """The project and the task of the clip, imported by the command and served by the backend."""
    label_studio = backend.label_studio
    place = VideoPlace(label_studio, backend.url, backend.environment, write_clip(folder / "ball.mp4"))
    project = place.project("video_frames", show_collab_predictions=False)
    assert "1 tasks made." in place.run("import", place.clip, "--project", project)
    label_studio.attach_backend(project, backend.url)
    (task,) = place.tasks(project)
    assert len(task["data"]["frames"]) == PAGES
    return project, task["id"]


def percent(x: float, y: float) -> tuple[float, float]:
    return 100 * x / WIDTH, 100 * y / HEIGHT


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


def masks(items) -> dict[int, np.ndarray]:
    return {page: mask for page, (_, mask) in on_pages(items).items()}


def names(items) -> dict[int, str]:
    return {page: name for page, (name, _) in on_pages(items).items()}


def stored_as(items, page: int) -> str:
    """The mask of a page as it is stored, to the last bit."""
    (url,) = [
        item["value"]["imageDataURL"]
        for item in items
        if item["type"] == "bitmasklabels" and item["item_index"] == page
    ]
    return url


def exported(backend: Workplace, project: int, task: int, folder: Path) -> dict[int, np.ndarray]:
    """What ``python -m backend export`` makes of the project's only object, bool (H, W) by page."""
    words = ["export", "--project", str(project), "--format", "png", "--out", str(folder)]
    command = [sys.executable, "-m", "backend", *words]
    done = subprocess.run(command, cwd=ROOT, env=backend.environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return {int(path.stem.removeprefix(f"{task}-")): np.asarray(Image.open(path)) > 0 for path in folder.glob("*.png")}


def share(mask: np.ndarray, of: np.ndarray) -> float:
    return (mask & of).sum() / of.sum()


def erase_the_hat(editor) -> None:
    """On the page of the correction: one long stroke to and fro."""
    x, y = middle(EDITED)
    rows = np.arange(y - RADIUS - 24, y - RADIUS - 3, 5)
    ends = (x - 18, x + 18)
    path = [percent(end, row) for number, row in enumerate(rows) for end in (ends if number % 2 == 0 else ends[::-1])]
    editor.choose_kept(*percent(x, y))
    editor.erase(*path)
    editor.let_go()


def test_one_click_all_pages_a_correction_and_the_rest_follows(editor, nano, clip, saved, tmp_path):
    editor.open(*clip)
    editor.switch_on()
    editor.show_page(CLICKED)
    editor.choose("7", f"{CONTROL}: {LABEL}")
    editor.take_up_by_button(CONTROL)
    asked = editor.click(*percent(*middle(CLICKED)))
    assert [region["item_index"] for region in asked.context] == [CLICKED]
    assert f"tracked {PAGES} pages" in asked.told()
    editor.accept()
    first = editor.results()
    tracked = masks(first)
    assert set(tracked) == set(range(PAGES))
    for page in LOOKED_AT:
        editor.show_page(page)
        editor.picture(f"page {page + 1}")
    assert min(iou(mask, ball(page) | hat(page)) for page, mask in tracked.items()) > 0.7

    editor.show_page(EDITED)
    erase_the_hat(editor)
    edited = editor.results()
    mine = masks(edited)[EDITED]
    assert not (mine & ~tracked[EDITED]).any()
    assert share(mine, hat(EDITED)) < 0.2 < 0.9 < share(mine, ball(EDITED))
    assert all((masks(edited)[page] == mask).all() for page, mask in tracked.items() if page != EDITED)
    editor.wait_saved()

    again = editor.type("track")
    others = {page: name for page, name in names(first).items() if page not in (CLICKED, EDITED)}
    assert names(again.items) == others, "each under its id; not the page of the click, and not the mended one"
    editor.accept()
    items = saved(editor.submit())
    final = masks(items)
    assert names(items) == names(first)
    assert stored_as(items, EDITED) == stored_as(edited, EDITED)
    assert (final[EDITED] == mine).all()
    assert (final[CLICKED] == tracked[CLICKED]).all()
    assert all((final[page] == mask).all() for page, mask in masks(again.items).items())
    assert share(final[EDITED - 1], hat(EDITED - 1)) < 0.5 * share(tracked[EDITED - 1], hat(EDITED - 1))
    before, after = (np.mean([iou(found[page], ball(page)) for page in others]) for found in (tracked, final))
    assert after > before, "pages that nobody touched are better than before"

    pages = exported(nano, *clip, tmp_path / "exported")
    assert set(pages) == set(range(PAGES))
    assert all((mask == final[page]).all() for page, mask in pages.items()), "as the editor showed it"

    editor.reopen()
    assert names(editor.results()) == names(items)
    assert all((mask == final[page]).all() for page, mask in masks(editor.results()).items())
    editor.show_page(EDITED)
    editor.picture("reopened")


def test_a_track_that_takes_longer_goes_on_meanwhile(editor, hasty, tmp_path, saved):
    editor.open(*imported(hasty, tmp_path))
    editor.switch_on()
    editor.choose("7", f"{CONTROL}: {LABEL}")
    editor.take_up_by_button(CONTROL)
    begun = editor.click(*percent(*middle(0)))
    assert f" of {PAGES} pages" in begun.told() and "ype track to see more, stop to end it" in begun.told()
    assert editor.shown("reply") == begun.told()
    assert 0 in masks(begun.items) and len(masks(begun.items)) < PAGES
    editor.accept()
    editor.wait_saved()
    for page in range(1, PAGES):  # the field belongs to its page, so each time on another one
        editor.show_page(page)
        told = editor.type("track").told()
        if editor.suggestions():
            editor.accept()
            editor.wait_saved()
        if f"tracked {PAGES} pages." in told:
            break
    items = saved(editor.submit())
    assert {page: name.rsplit("-", 1)[0] for page, name in names(items).items()} == dict.fromkeys(
        range(PAGES), names(begun.items)[0].rsplit("-", 1)[0]
    )
    assert min(iou(mask, ball(page) | hat(page)) for page, mask in masks(items).items()) > 0.7
