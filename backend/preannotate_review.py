"""One page to look through what pre-annotation found: pictures with the masks over them, the most doubtful first.

The page stands by itself: pictures are inside it, and it loads nothing. It is drawn from the predictions that are in
Label Studio, so it can be made at any time, without a model.
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backend.errors import EXPECTED
from backend.export_rows import Region, read_regions
from backend.export_shapes import DAMAGED, value_to_mask
from backend.export_staging import ExportError
from backend.frames import TaskFrames
from backend.label_config import LabelConfig
from backend.label_studio_api import LabelStudioApi
from backend.preannotate_state import Sent
from backend.protocol import Task, parse_task
from x2sam.evaluation.worst import overlay

MOST = 200
"""Tasks of a page at most: about 40 KB each."""
_LONGEST = 560
FramesOf = Callable[[Task, LabelConfig], TaskFrames | None]
Report = Callable[[str, int, int], None]

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem; background: #f6f6f4; color: #222; }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1.2rem; }}
figure {{ margin: 0; background: #fff; border: 1px solid #ddd; border-radius: 6px; overflow: hidden; }}
img {{ width: 100%; display: block; background: #eee; }}
figcaption {{ padding: .6rem .8rem; }}
.bar {{ height: 6px; background: #e4e4e0; }} .bar i {{ display: block; height: 100%; background: #c0392b; }}
small {{ color: #666; }} a {{ color: #1f5fa8; }}
</style></head><body>
<h1>{title}</h1>
<p>{about}</p>
<main>
"""
_CARD = """<figure><div class="bar"><i style="width:{percent:.0f}%"></i></div>{picture}<figcaption>
<b>{rank}.</b> <a href="{link}">task {task}</a> · score {score:.3f} · about {percent:.0f} % probably wrong
<br><small>{labels}</small></figcaption></figure>
"""


@dataclass(frozen=True)
class Shown:
    """Where the page's tasks are: ``url`` of Label Studio in the browser, the project, the model version."""

    url: str
    project: int
    version: str


def write_review(
    api: LabelStudioApi, shown: Shown, sent: Sequence[Sent], config: LabelConfig, frames_of: FramesOf, out: Path,
    report: Report,
) -> int:  # fmt: skip
    """Writes ``out/index.html`` with the :data:`MOST` tasks of the lowest scores; how many it has.

    :raises ExportError: it can't be written.
    :raises LabelStudioError: Label Studio can't be reached.
    """
    worst = sorted(sent, key=lambda one: (one.score, one.task))[:MOST]
    part, count = out / "index.html.part", 0
    try:
        out.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            about = (
                f"{len(worst)} of {len(sent)} tasks with predictions of {shown.version}, those that are most useful to "
                "look at first. The red bar is how much of a task is probably wrong; of tasks that look alike only one "
                "comes early."
            )
            title = html.escape(f"Project {shown.project}: what was found")
            file.write(_HEAD.format(title=title, about=html.escape(about)))
            for card in _cards(api, shown, worst, config, frames_of):
                file.write(card)
                count += 1
                report("overlays", count, len(worst))
            file.write("</main></body></html>\n")
        os.replace(part, out / "index.html")
    except OSError as error:
        raise ExportError(f"{out} can't be written ({error.strerror}); choose another folder for --review.") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return count


def _cards(
    api: LabelStudioApi, shown: Shown, worst: Sequence[Sent], config: LabelConfig, frames_of: FramesOf
) -> Iterator[str]:
    rank = 0
    for one in worst:
        for raw in api.whole_tasks(shown.project, [one.task]):
            rank += 1
            yield _card(shown, one, raw, config, frames_of, rank)


def _card(
    shown: Shown, one: Sent, raw: Mapping[str, Any], config: LabelConfig, frames_of: FramesOf, rank: int
) -> str:
    listed = raw.get("predictions") if isinstance(raw.get("predictions"), list) else []
    result = next((p.get("result") for p in listed if p.get("model_version") == shown.version), None)
    regions, _ = read_regions(result, config)
    page = _page(regions)
    here = [region for region in regions if region.page == page]
    try:
        picture = _picture(frames_of(parse_task(raw), config), page, here)
    except EXPECTED as error:
        picture = f"<p><small>{html.escape(str(error))}</small></p>"
    names = ", ".join(f"{r.label} {r.score:.2f}" if r.score is not None else r.label for r in here[:20])
    labels = names or "nothing found"
    if any(region.page for region in regions):
        labels = f"page {page + 1}: {labels}"
    link = f"{shown.url}/projects/{shown.project}/data?task={one.task}"
    return _CARD.format(
        percent=100 * min(max(one.error, 0.0), 1.0), rank=rank, link=html.escape(link), task=one.task,
        score=one.score, labels=html.escape(labels), picture=picture,
    )  # fmt: skip


def _page(regions: Sequence[Region]) -> int:
    """The page of a task with the least sure mask; the first one where nothing was found."""
    rated = [region for region in regions if region.score is not None] or regions
    return min(rated, key=lambda region: (region.score or 0.0, region.page)).page if rated else 0


def _picture(frames: TaskFrames | None, page: int, regions: Sequence[Region]) -> str:
    if frames is None or page >= len(frames):
        return ""
    pixels = np.asarray(frames[page])
    step = max(1.0, max(pixels.shape[:2]) / _LONGEST)
    size = (max(1, round(pixels.shape[1] / step)), max(1, round(pixels.shape[0] / step)))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    masks = []
    for region in regions:
        try:
            mask = value_to_mask(region.shape, region.value, region.size or pixels.shape[:2])
        except DAMAGED:  # another program's prediction under our version
            continue
        masks.append(np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)))
    file = io.BytesIO()
    Image.fromarray(overlay(small, masks)).save(file, "JPEG", quality=80)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{data}">'
