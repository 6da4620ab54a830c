"""Directories from which pictures are read without asking Label Studio, for those who configure them.

They are Label Studio's document root, or parts of it, as this machine sees them. Label Studio's own check, whether a
storage of the project covers a file, does not take place then; that is what configuring a directory allows.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from backend.errors import MediaError, MediaRefusedError, SettingsError


@dataclass(frozen=True)
class FolderFile:
    """An open file. ``name`` changes when the file does."""

    name: str
    size: int
    stream: BinaryIO


class MediaFolders:
    """Finds files by their path below one of the configured directories."""

    def __init__(self, directories: tuple[str, ...]):
        self._roots = [_root(directory) for directory in directories]

    def __bool__(self) -> bool:
        return bool(self._roots)

    @contextmanager
    def open(self, relative: str) -> Iterator[FolderFile | None]:
        """The first regular file with this path below a directory; None where there is none.

        :raises MediaRefusedError: the path climbs, or a link leads out of the directory.
        :raises MediaError: the file may not be read.
        """
        path = PurePosixPath(relative)
        if path.is_absolute() or ".." in path.parts or "\0" in relative or not path.parts:
            raise MediaRefusedError("The task names a path that leads out of the directories in X2SAM_MEDIA_DIRS.")
        for root in self._roots:
            descriptor = _open_below(root, path)
            if descriptor is None:
                continue
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                os.close(descriptor)
                raise MediaRefusedError("The task names something that is not a file.")
            with os.fdopen(descriptor, "rb") as stream:
                name = f"folder:{root}/{path}#{status.st_ino}.{status.st_mtime_ns}.{status.st_size}"
                yield FolderFile(name, status.st_size, stream)
                return
        yield None


def _root(directory: str) -> Path:
    path = Path(directory)
    if not path.is_absolute() or path == Path(path.anchor) or not path.is_dir():
        raise SettingsError(
            f"X2SAM_MEDIA_DIRS: '{directory}' is no directory that can be used; give full paths of directories that "
            "are there, not the root."
        )
    return path.resolve()


def _open_below(root: Path, path: PurePosixPath) -> int | None:
    """A descriptor of the file. Links are followed as long as they stay below the root.

    What was checked is opened from directory to directory without following links, so nobody can swap one in between.
    """
    try:
        real = (root / path).resolve(strict=True)
        if real == root or not real.is_relative_to(root):
            raise MediaRefusedError("A link of that name leads out of the directories in X2SAM_MEDIA_DIRS.")
        *folders, last = real.relative_to(root).parts
        here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for folder in folders:
                below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
                os.close(here)
                here = below
            return os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=here)
        finally:
            os.close(here)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, RuntimeError, ValueError) as error:
        raise MediaError("A file in X2SAM_MEDIA_DIRS can't be read; check its permissions and links.") from error
