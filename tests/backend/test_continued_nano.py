"""The embedded model carries an object from one task of a video into the next, through the app."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clip_desk import by_page
from clip_project import PAGES, VIDEO, ClipProject, Desk, region
from PIL import Image, ImageDraw
from prompting import object_of
from reading import pixels, sentences

from backend.app import close_app, create_app

SIZE, RADIUS = (160, 240), 18
A, B = "obj0123456789", "obj9876543210"
NANO = Path(__file__).parents[2] / "x2sam" / "checkpoints" / "nano" / "model.safetensors"

pytestmark = pytest.mark.skipif(not NANO.is_file(), reason="x2sam/checkpoints/nano is not there")


def middles(frame):
    """Of a red disc that goes to the right, and of a blue one that goes down."""
    return (40 + 12 * frame, 50), (190, 60 + 6 * frame)


def disc(frame, number):
    rows, cols = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    x, y = middles(frame)[number]
    return (cols - x) ** 2 + (rows - y) ** 2 < RADIUS**2


def picture(frame):
    image = Image.new("RGB", SIZE[::-1], (40, 90, 40))
    draw = ImageDraw.Draw(image)
    for (x, y), colour in zip(middles(frame), ((210, 60, 40), (50, 70, 220)), strict=True):
        draw.ellipse((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), fill=colour)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_two_discs_go_on_in_the_next_task(settings):
    from x2sam.inference.engine import Engine

    server = ClipProject()
    for frame in range(2 * PAGES):
        server.files[f"small/{VIDEO}-{frame}.png"] = picture(frame)
    for task, start in ((11, 0), (12, PAGES)):
        server.add(task, start)
    masks = [region(A, page, disc(page, 0)) for page in range(PAGES)]
    masks += [region(B, page, disc(page, 1), "Object 2") for page in range(PAGES)]
    server.store("annotations", 11, masks)
    app = create_app(
        replace(settings, label_studio_url=server.url, label_studio_api_key="a" * 40),
        lambda: Engine.load("nano", device="cpu"),
    )
    try:
        (entry,) = Desk(app.test_client(), server).open(12)
        assert "tracked 6 pages." in sentences(entry)[0]
        for number, name in enumerate((A, B)):
            items = by_page(entry, name)
            assert sorted(items) == list(range(PAGES)) and {object_of(item) for item in items.values()} == {name}
            for page, item in items.items():
                mask, truth = pixels(item), disc(PAGES + page, number)
                assert (mask & truth).sum() / (mask | truth).sum() > 0.7, (name, page)
    finally:
        close_app(app)
        server.close()
