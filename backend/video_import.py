"""Videos to tasks of pages in Label Studio, and their addresses kept up to date. What runs behind ``backend video``.

Label Studio itself is the record of what was done: tasks of a video are asked for before any is made, uploads before
any is repeated. So a run that was stopped goes on where it was, and a second run changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.errors import LabelConfigError
from backend.label_config import parse_label_config
from backend.label_studio_api import LabelStudioApi, NotThereError
from backend.settings import MEGABYTE
from backend.video_addresses import frame_address, is_signed, split_address
from backend.video_frames import encode_jpeg
from backend.video_library import Report, Video, VideoLibrary
from backend.video_pages import (
    OWN_KEYS,
    PAGES,
    Clip,
    batches,
    identity,
    identity_of,
    overlapping_tasks,
    pick_frames,
    plan_clips,
    task_data,
)
from x2sam.data.video import VideoReader
from x2sam.errors import FramesError

_TASKS_PER_REQUEST = 20
_FILES_PER_REQUEST = 8
_READER_BYTES = 32 * MEGABYTE
_UPLOAD_NAME = "x2sam-{video}-{frame:07d}.jpg"


@dataclass(frozen=True)
class Wanted:
    """What to make of each video: a page for every frame, or ``fps`` per second; ``part`` in frames of the video."""

    project: int
    fps: float | None = None
    pages: int = PAGES
    part: slice = field(default_factory=lambda: slice(0, None))
    upload: bool = False


@dataclass(frozen=True)
class Imported:
    """What there is now: ``tasks`` are ids in order of time, ``created`` of them new. ``missing`` are seconds at the
    end that the file's header promises and that can't be read; ``overlapping`` tasks that were there show some of the
    same frames, cut in another way."""

    video: Video
    pages: int
    tasks: list[int]
    created: int
    missing: float = 0.0
    overlapping: int = 0

    def as_json(self) -> dict[str, Any]:
        height, width = self.video.size
        return {
            "video_id": self.video.id,
            "name": self.video.name,
            "frames": self.video.frames,
            "fps": self.video.fps,
            "width": width,
            "height": height,
            "pages": self.pages,
            "tasks": self.tasks,
            "created": self.created,
            "missing_seconds": round(self.missing, 3),
            "overlapping": self.overlapping,
        }


class Importer:
    """Puts videos into one Label Studio; ``base`` is this backend's address as browsers see it."""

    def __init__(self, api: LabelStudioApi, library: VideoLibrary, base: str, report: Report | None = None):
        self._api = api
        self._library = library
        self._base = base
        self._report = report or (lambda what, done, whole: None)

    def run(self, path: Path, wanted: Wanted) -> Imported:
        """Makes the tasks of a video that are not there yet.

        :raises FramesError: the file is no video that can be decoded, or has no frame in the range.
        :raises LabelConfigError: the project shows no pages.
        :raises LabelStudioError: Label Studio can't be reached or refuses.
        :raises LibraryError: the state directory can't be written, or another process imports into the project.
        """
        # Two at once would each miss what the other is about to make.
        with self._library.alone(f"{self._api.url} {wanted.project}"):
            return self._run(path, wanted)

    def _run(self, path: Path, wanted: Wanted) -> Imported:
        key = self._pages_key(wanted.project)
        video = self._library.add(path, self._report)
        with self._library.open(video.id, _READER_BYTES) as reader:
            clips = plan_clips(pick_frames(reader.times, wanted.fps), wanted.pages, wanted.part)
            if not clips:
                raise FramesError(f"{video.name} has {video.frames} frames and no frame in the range asked for")
            known = self._known(wanted.project, video)
            missing = [clip for clip in clips if identity(video, clip, wanted.fps) not in known]
            overlapping = overlapping_tasks(known, {identity(video, clip, wanted.fps): clip for clip in clips})
            self._report("tasks", len(clips) - len(missing), len(clips))
            missing_seconds = reader.missing
            pages = self._uploaded(reader, video, wanted) if wanted.upload else self._served(video, wanted)
            # Uploads are big: each task is made as soon as its own pages are there.
            size = 1 if wanted.upload else _TASKS_PER_REQUEST
            for batch in batches(missing, size):
                data = [task_data(key, video, clip, wanted.fps, pages.addresses(clip)) for clip in batch]
                ids = self._api.add_tasks(wanted.project, data)
                known |= {identity_of(entry): task for entry, task in zip(data, ids, strict=True)}
                self._report("tasks", sum(identity(video, clip, wanted.fps) in known for clip in clips), len(clips))
        tasks = [known[identity(video, clip, wanted.fps)] for clip in clips]
        pages_in_all = sum(len(clip.frames) for clip in clips)
        return Imported(video, pages_in_all, tasks, len(missing), missing_seconds, overlapping)

    def _pages_key(self, project: int) -> str:
        """The entry of a task's data where the project looks for pages."""
        config = parse_label_config(self._api.project(project).get("label_config") or "<View/>")
        keys = [tag.key[1:] for tag in config.objects.values() if tag.pages and tag.key.startswith("$")]
        if not keys:
            raise LabelConfigError(
                f'Project {project} shows no pages: give it an <Image name="image" valueList="$frames"/>, as '
                "label_config/video_frames.xml has."
            )
        if keys[0] in OWN_KEYS:
            raise LabelConfigError(f"Project {project} looks for pages under '{keys[0]}'; call that '$frames' instead.")
        return keys[0]

    def _known(self, project: int, video: Video) -> dict[tuple[Any, ...], int]:
        found: dict[tuple[Any, ...], int] = {}
        for task in self._api.tasks(project, "video_id", video.id):
            found.setdefault(identity_of(task["data"]), task["id"])
        return found

    def _served(self, video: Video, wanted: Wanted) -> _ServedPages:
        signing_key = self._library.signing_key()
        self._library.remember_place(self._api.url, wanted.project)
        return _ServedPages(self._base, signing_key, video)

    def _uploaded(self, reader: VideoReader, video: Video, wanted: Wanted) -> _UploadedPages:
        return _UploadedPages(self._api, wanted.project, reader, video, self._report)


@dataclass(frozen=True)
class _ServedPages:
    base: str
    key: bytes
    video: Video

    def addresses(self, clip: Clip) -> list[str]:
        return [frame_address(self.base, self.key, self.video.id, frame) for frame in clip.frames]


class _UploadedPages:
    """Frames as files of Label Studio, a few in memory at a time; those that are there are not sent again."""

    def __init__(self, api: LabelStudioApi, project: int, reader: VideoReader, video: Video, report: Report):
        self._api, self._project, self._reader, self._video, self._report = api, project, reader, video, report
        self._stored = _by_name(api.uploads(project))

    def addresses(self, clip: Clip) -> list[str]:
        names = {frame: _UPLOAD_NAME.format(video=self._video.id, frame=frame) for frame in clip.frames}
        todo = [frame for frame in clip.frames if names[frame] not in self._stored]
        for batch in batches(todo, _FILES_PER_REQUEST):
            files = {names[frame]: encode_jpeg(self._reader[frame]) for frame in batch}
            self._stored |= _by_name(self._api.upload(self._project, files))
            self._report("uploads", len(clip.frames) - len(todo) + todo.index(batch[-1]) + 1, len(clip.frames))
        return [self._stored[names[frame]] for frame in clip.frames]


def _by_name(addresses: Sequence[str]) -> dict[str, str]:
    """Addresses by the name that a file had before Label Studio put eight digits and a dash before it."""
    return {address.rsplit("/", 1)[-1].partition("-")[2]: address for address in addresses}


@dataclass
class Renewal:
    """What was done to the addresses in tasks: tasks changed, projects that are gone, places that are still behind."""

    changed: int = 0
    gone: list[int] = field(default_factory=list)
    behind: list[tuple[str, int]] = field(default_factory=list)


def renew_addresses(
    api: LabelStudioApi, library: VideoLibrary, base: str, projects: Sequence[int] = (), report: Report | None = None
) -> Renewal:
    """Signs the addresses in all known projects of one Label Studio with the newest key, under the address ``base``.

    Older keys end when no place needs them any more. May be repeated; a stopped run is completed by the next one.
    """
    keys, result = library.keys(), Renewal()
    if not keys:
        return result
    mine = sorted({project for url, project in library.places() if url == api.url} | set(projects))
    for number, project in enumerate(mine):
        if report is not None:
            report("projects", number, len(mine))
        try:
            api.project(project)
        except NotThereError:
            library.forget_place(api.url, project)
            result.gone.append(project)
            continue
        for task in api.tasks(project):
            renewed = renewed_data(task["data"], base, keys)
            if renewed != task["data"]:
                api.change_task(task["id"], renewed)
                result.changed += 1
        library.renewed_place(api.url, project)
    result.behind = library.drop_old_keys()
    return result


def renewed_data(data: Mapping[str, Any], base: str, keys: Sequence[bytes]) -> dict[str, Any]:
    """A task's data with every address of ours made anew with the first key. Addresses with a wrong signature stay:
    whoever wrote them into a task does not get a good one for it."""

    def renewed(value: Any) -> Any:
        if isinstance(value, list):
            return [renewed(entry) for entry in value]
        parts = split_address(value) if isinstance(value, str) else None
        return frame_address(base, keys[0], *parts[:2]) if parts and is_signed(keys, *parts) else value

    return {name: renewed(value) for name, value in data.items()}
