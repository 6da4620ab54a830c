"""Videos as frame pictures with an outline of every object in every frame.

``ytvis`` (YouTube-VIS, OVIS): ``videos`` [{id, file_names, width, height}], ``annotations`` [{id, video_id,
category_id, iscrowd, segmentations: one run length, polygon list or null a frame}], ``categories``.

``panoptic-video`` (VIPSeg): ``videos`` [{video_id, images [{id, file_name, width, height}]}], ``annotations``
[{video_id, annotations [{image_id, file_name, segments_info}]}], ``categories`` with ``isthing``. Frames are
``images/<video_id>/<file_name>``, RGB label maps ``masks/<video_id>/<file_name>``; a segment keeps its id over the
video.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from x2sam.data.readers.coco import Segment, check_segments, read_segments
from x2sam.data.readers.files import Node, inside, read_json, read_map, read_picture, size_of
from x2sam.data.readers.listed import Instances, ListedDataset, Vocabulary, cut_video, empty_masks, instances_sample
from x2sam.data.readers.shapes import decode_shape
from x2sam.data.readers.spec import DatasetSpec
from x2sam.data.task_sample import TaskSample
from x2sam.errors import FramesError


def read_frames(paths: list[Path], size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 (T, H, W, 3); all of ``size``, or of the size of the first."""
    first = read_picture(paths[0], size)
    empty_masks(len(paths), 3, first.shape[:2], str(paths[0]))
    frames = np.empty((len(paths), *first.shape), np.uint8)
    frames[0] = first
    for t, path in enumerate(paths[1:], 1):
        frames[t] = read_picture(path, first.shape[:2])
    return frames


@dataclass(frozen=True)
class Video:
    """A line of ``videos``: its frames, their size (H, W), and where it stands."""

    name: str
    frames: tuple[Path, ...]
    size: tuple[int, int]
    where: str


@dataclass(frozen=True)
class Track:
    """A line of ``annotations``: one shape a frame."""

    id: int
    category: int
    crowd: bool
    shapes: tuple[Node, ...]

    def shown(self, frames: tuple[int, ...]) -> bool:
        return any(self.shapes[t].value is not None for t in frames)


class YtvisDataset(ListedDataset[tuple[Video, tuple[int, ...], tuple[Track, ...]]]):
    """Layout ``ytvis``. A sample is a clip with its tracks. A frame in which no track has a shape counts as not
    annotated: the files do not tell that from a frame that shows nothing."""

    def __init__(self, spec: DatasetSpec):
        content = read_json(spec.path("annotations"), spec.largest_json_mb)
        self._mode = spec.mode or "instance"
        self._file = spec.path("annotations").name
        self._vocabulary = Vocabulary.read(content)
        videos = self._videos(content, spec.path("images"))
        tracks = self._tracks(content, videos)
        records = []
        for key, video in videos.items():
            labelled = self._labelled(video, tracks[key])
            usable = range(len(video.frames)) if spec.keep_unannotated else sorted(labelled)
            for clip in cut_video(usable, spec):
                shown = any(not t.crowd and t.shown(clip) for t in tracks[key])
                if labelled & set(clip) and (shown or spec.task in ("genseg", "ovseg")):
                    records.append((video, clip, tuple(tracks[key])))
        super().__init__(spec, "video", records, (len(clip) for _, clip, _ in records), self._vocabulary)

    def _videos(self, content: Node, root: Path) -> dict[str, Video]:
        videos: dict[str, Video] = {}
        for entry in content.get("videos").items():
            names = [name.text() for name in entry.get("file_names").items()]
            if not names:
                raise FramesError(f"{entry.where} has no file_names; leave the video out")
            frames = tuple(inside(root, name, entry.where) for name in names)
            identity = entry.get("id").identity()
            if identity in videos:
                raise FramesError(f"{entry.where}: the id {identity} is there twice; number the videos anew")
            videos[identity] = Video(identity, frames, size_of(entry), entry.where)
        return videos

    def _tracks(self, content: Node, videos: dict[str, Video]) -> dict[str, list[Track]]:
        tracks: dict[str, list[Track]] = defaultdict(list)
        for entry in content.get("annotations").items():
            video = entry.get("video_id").identity()
            if video not in videos:
                raise FramesError(f"{entry.where} is for the video {video}, which is not listed; correct video_id")
            shapes = tuple(entry.get("segmentations").items())
            if len(shapes) != len(videos[video].frames):
                raise FramesError(
                    f"{entry.where} has {len(shapes)} segmentations for {len(videos[video].frames)} frames; write one "
                    "or null for each"
                )
            category = self._vocabulary.index(entry.get("category_id"))
            crowd = entry.optional("iscrowd").flag()
            tracks[video].append(Track(entry.get("id").whole(), category, crowd, shapes))
        return tracks

    @staticmethod
    def _labelled(video: Video, tracks: list[Track]) -> set[int]:
        return {t for t in range(len(video.frames)) if any(track.shapes[t].value is not None for track in tracks)}

    def _sample(self, record: tuple[Video, tuple[int, ...], tuple[Track, ...]]) -> TaskSample:
        video, clip, tracks = record
        labelled = self._labelled(video, list(tracks))
        tracks = tuple(track for track in tracks if track.shown(clip))
        masks = empty_masks(len(clip), len(tracks), video.size, video.where)
        for n, track in enumerate(tracks):
            for t, frame in enumerate(clip):
                masks[t, n] = decode_shape(track.shapes[frame], video.size)
        truth = Instances(
            read_frames([video.frames[t] for t in clip], video.size),
            masks,
            np.array([track.category for track in tracks], np.int64),
            np.array([track.crowd for track in tracks], bool),
            tuple(track.id for track in tracks),
            annotated=np.array([t in labelled for t in clip]),
        )
        return instances_sample(
            self.task, self._mode, truth, self.vocabulary, video=True, group=video.name, frame_numbers=clip,
            key=f"{self._file}:video {video.name}, frame {clip[0]}",
        )  # fmt: skip


@dataclass(frozen=True)
class LabelledFrame:
    """A frame of ``panoptic-video``; ``labels`` is None where it has no label map."""

    picture: Path
    size: tuple[int, int]
    labels: Path | None
    segments: tuple[Segment, ...]


class PanopticVideoDataset(ListedDataset[tuple[str, tuple[int, ...], tuple[LabelledFrame, ...]]]):
    """Layout ``panoptic-video``. A record is the name of the video, the places of the clip in it, and the frames."""

    def __init__(self, spec: DatasetSpec):
        content = read_json(spec.path("annotations"), spec.largest_json_mb)
        self._mode = spec.mode
        self._file = spec.path("annotations").name
        vocabulary = Vocabulary.read(content)
        labels: dict[tuple[str, str], tuple[Path, tuple[Segment, ...]]] = {}
        for entry in content.get("annotations").items():
            video = entry.get("video_id").identity()
            for line in entry.get("annotations").items():
                path = inside(spec.path("masks"), f"{video}/{line.get('file_name').text()}", line.where)
                labels[video, line.get("image_id").identity()] = (path, read_segments(line, vocabulary))
        records = []
        for entry in content.get("videos").items():
            video = entry.get("video_id").identity()
            frames = self._frames(entry, video, spec.path("images"), labels)
            usable = [t for t, frame in enumerate(frames) if frame.labels or spec.keep_unannotated]
            for clip in cut_video(usable, spec):
                chosen = tuple(frames[t] for t in clip)
                things = any(vocabulary.things[s.category] and not s.crowd for f in chosen for s in f.segments)
                if any(f.labels for f in chosen) and (things or spec.task in ("genseg", "ovseg")):
                    records.append((video, clip, chosen))
        super().__init__(spec, "video", records, (len(clip) for _, clip, _ in records), vocabulary)

    @staticmethod
    def _frames(
        entry: Node, video: str, root: Path, labels: dict[tuple[str, str], tuple[Path, tuple[Segment, ...]]]
    ) -> list[LabelledFrame]:
        frames = []
        for line in entry.get("images").items():
            path, segments = labels.get((video, line.get("id").identity()), (None, ()))
            picture = inside(root, f"{video}/{line.get('file_name').text()}", line.where)
            frames.append(LabelledFrame(picture, size_of(line), path, segments))
        return frames

    def _sample(self, record: tuple[str, tuple[int, ...], tuple[LabelledFrame, ...]]) -> TaskSample:
        video, clip, frames = record
        size = frames[0].size
        known: dict[int, Segment] = {}
        for frame in frames:
            known |= {s.id: s for s in frame.segments}
        masks = empty_masks(len(frames), len(known), size, f"{self._file}: video {video}")
        void = np.zeros((len(frames), *size), bool)
        for t, frame in enumerate(frames):
            if frame.labels is not None:
                values = read_map(frame.labels, size)
                check_segments(values, frame.segments, frame.labels)
                void[t] = values == 0
                for n, number in enumerate(known):
                    masks[t, n] = values == number
        truth = Instances(
            read_frames([f.picture for f in frames], size),
            masks,
            np.array([s.category for s in known.values()], np.int64),
            np.array([s.crowd for s in known.values()], bool),
            tuple(known),
            void,
            annotated=np.array([f.labels is not None for f in frames]),
        )
        return instances_sample(
            self.task, self._mode, truth, self.vocabulary, video=True, group=video, frame_numbers=clip,
            key=f"{self._file}:video {video}, frame {clip[0]}",
        )  # fmt: skip
