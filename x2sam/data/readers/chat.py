"""Conversations about pictures and videos, ``chat`` (LLaVA's layout).

``annotations``: a JSON list [{id, image or video, conversations [{from, value}]}], where ``from`` is ``human`` or
``user`` and ``gpt`` or ``assistant`` in turns; ``system`` lines are passed over, and so are conversations about
nothing. ``video`` is a video file or a directory of frames, of which ``frames_per_clip`` (64 by default) are taken,
evenly spread (X2SAM, frame sampling of chats).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from x2sam.data.readers.files import MOST_PIXELS, Node, inside, pictures_in, read_json, read_picture
from x2sam.data.readers.listed import ListedDataset, empty_masks
from x2sam.data.readers.spec import DatasetSpec
from x2sam.data.readers.video_masks import read_frames
from x2sam.data.task_sample import TaskSample, Turn
from x2sam.data.video import VideoReader
from x2sam.errors import FramesError

CHAT_FRAMES = 64
_MARKER = re.compile(r"\s*<(?:image|video)>\s*", re.IGNORECASE)
_ASKS, _ANSWERS = ("human", "user"), ("gpt", "assistant")


@dataclass(frozen=True)
class Conversation:
    """The file it is about, its frames where it is a directory, and the turns."""

    media: Path
    folder: tuple[Path, ...]
    turns: tuple[Turn, ...]
    key: str


def read_turns(node: Node) -> tuple[Turn, ...]:
    """Questions with their answers, without the marks of pictures. A last question without answer is left out."""
    turns: list[Turn] = []
    question: str | None = None
    for line in node.items():
        speaker = line.get("from").text().lower()
        words = _MARKER.sub("\n", line.get("value").text(empty=True)).strip()
        if speaker == "system":
            continue
        if speaker in _ASKS and question is None:
            question = words
        elif speaker in _ANSWERS and question is not None:
            turns.append(Turn(question, words))
            question = None
        else:
            raise line.get("from").wrong("should be human and gpt in turns")
    if not turns:
        raise FramesError(f"{node.where} has no question with an answer; leave the entry out")
    return tuple(turns)


class ChatDataset(ListedDataset[Conversation]):
    """Layout ``chat``; the entries with ``image``, or those with ``video`` as ``modality`` says."""

    def __init__(self, spec: DatasetSpec):
        path = spec.path("annotations")
        modality = spec.modality or "image"
        self._count = spec.frames_per_clip or CHAT_FRAMES
        records, lengths = [], []
        for number, entry in enumerate(read_json(path, spec.largest_json_mb).items()):
            if not entry.has(modality):
                continue
            media = inside(spec.path("images"), entry.get(modality).text(), entry.where)
            folder = tuple(pictures_in(media)) if modality == "video" and media.is_dir() else ()
            name = entry.get("id").identity() if entry.has("id") else str(number)
            records.append(Conversation(media, folder, read_turns(entry.get("conversations")), f"{path.name}:{name}"))
            lengths.append(min(len(folder) or self._count, self._count) if modality == "video" else 1)
        super().__init__(spec, modality, records, lengths)

    def _sample(self, record: Conversation) -> TaskSample:
        frames = read_picture(record.media)[None] if self.modality == "image" else self._frames(record)
        masks = empty_masks(len(frames), 0, frames.shape[1:3], record.key)
        return TaskSample(
            self.task, frames, masks, np.zeros(0, np.int64), turns=record.turns, video=self.modality == "video",
            key=record.key,
        )  # fmt: skip

    def _frames(self, record: Conversation) -> np.ndarray:
        if record.folder:
            return read_frames([record.folder[t] for t in spread(len(record.folder), self._count)])
        return read_video(record.media, None, self._count)


def spread(total: int, count: int) -> list[int]:
    """At most ``count`` places of ``total``, the first and the last among them."""
    return np.linspace(0, total - 1, min(count, total)).astype(int).tolist()


def read_video(path: Path, numbers: tuple[int, ...] | None, count: int = 0) -> np.ndarray:
    """uint8 (T, H, W, 3): the frames ``numbers`` of a video file, or ``count`` of them evenly spread."""
    if not path.is_file():
        raise FramesError(f"there is no video {path}; check the directory of images")
    with VideoReader(path) as video:
        chosen = spread(len(video), count) if numbers is None else numbers
        if max(chosen) >= len(video):
            raise FramesError(f"{path} has {len(video)} frames, there is no frame {max(chosen)}; restore the file")
        height, width = video.size or (0, 0)
        if height * width > MOST_PIXELS:
            raise FramesError(f"{path} has {width} x {height} pixels a frame, more than {MOST_PIXELS}; make it smaller")
        empty_masks(len(chosen), 3, (height, width), str(path))
        return np.stack([video[t] for t in chosen])
