"""Compiled code on disk: which machine and network it is for, and where it lies.

It is native code, so it is read only from a directory that others can't write to, and only what was written there by
:class:`CodeFiles` and still has the digest that it had then. It never comes with a model. Weights are not in it: a file
serves every version of a model, each of which lends it its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import x2sam.model
from x2sam.errors import StoreError
from x2sam.inference import network
from x2sam.inference.network import Layout
from x2sam.model.x2sam import X2SAM

FORMAT = 1
"""Raised when files mean something else."""
BUDGET = 256 * 2**20
CODE, ABOUT, WORK = ".so", ".json", ".work-"
_LONGEST_ABOUT = 2**16
_LOOK_SECONDS = 1.0


def subject_of(model: X2SAM, threads: int) -> str:
    """A digest of all that compiled code depends on besides part and layout: the network's source and sizes, number
    type, kind of device, processor, number of threads, version of PyTorch; but not the weights."""
    sizes = {name: value for name, value in model.config.to_dict().items() if name != "name"}
    where = torch.cuda.get_device_properties(model.device).name if model.device.type == "cuda" else _processor()
    about = (str(model.dtype), model.device.type, where, threads, torch.__version__, torch.version.cuda)
    told = (FORMAT, _source(), sizes, *about)
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _source() -> str:
    """A digest of the code that is compiled."""
    files = [Path(network.__file__), *sorted(Path(x2sam.model.__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _processor() -> str:
    """What code for this processor may use of it."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text(errors="replace").splitlines() if known.is_file() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {' '.join(sorted(flags.split()))}"


@dataclass(frozen=True)
class Compiled:
    """A file of compiled code: what it is for, and its digest."""

    subject: str
    part: str
    layout: Layout
    sha256: str
    seconds: float


class CodeFiles:
    """``budget`` bytes below ``directory``; those used longest ago go first. Several processes may share it.

    Raises StoreError where the directory can't be used, or others could write to it.
    """

    def __init__(self, directory: str | Path, budget: int = BUDGET):
        self.directory, self.budget = Path(directory), budget
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_owner(self.directory)
        except OSError as error:
            raise StoreError(f"compiled code can't be kept in {self.directory} ({error.strerror})") from error

    @property
    def writable(self) -> bool:
        return os.access(self.directory, os.W_OK)

    @property
    def used(self) -> int:
        """Bytes of code."""
        return sum(path.stat().st_size for path in self.directory.glob(f"*{CODE}"))

    def known(self, subject: str | None = None) -> list[Compiled]:
        """What there is, for a subject where one is given."""
        found = (self._about(path) for path in sorted(self.directory.glob(f"*{ABOUT}")))
        return [one for one in found if one is not None and subject in (None, one.subject)]

    def take(self, subject: str, part: str, layout: Layout) -> Path | None:
        """The file for that; None where there is none, or where it is damaged: then it is removed."""
        about, code = self._places(subject, part, layout)
        known = self._about(about)
        if known is None:
            return None
        try:
            self._check_owner(code)
            if (known.subject, known.part, known.layout) == (subject, part, layout) and known.sha256 == _digest(code):
                self._touch(about)
                return code
        except (OSError, StoreError):
            pass
        self._remove(about, code)
        return None

    def keep(self, subject: str, part: str, layout: Layout, made: Path, seconds: float) -> Path:
        """Takes a file in that was compiled in a :meth:`workplace`. Raises OSError."""
        about, code = self._places(subject, part, layout)
        told = {"format": FORMAT, "subject": subject, "part": part, "layout": layout, "sha256": _digest(made)}
        note = made.with_suffix(ABOUT)
        note.write_text(json.dumps(told | {"seconds": seconds}))
        for path in (made, note):
            path.chmod(0o600)
        about.unlink(missing_ok=True)  # so that no note is ever beside code that it does not tell of
        os.replace(made, code)
        os.replace(note, about)
        self._make_room(code)
        return code

    @contextmanager
    def workplace(self, stop: threading.Event) -> Iterator[Path | None]:
        """A directory to compile in, for one process at a time; None where ``stop`` was set before it was free."""
        with (self.directory / ".lock").open("w") as lock:
            while not _locked(lock):
                if stop.wait(_LOOK_SECONDS):
                    yield None
                    return
            for left in self.directory.glob(f"{WORK}*"):  # by one that was killed
                shutil.rmtree(left, ignore_errors=True)
            place = Path(tempfile.mkdtemp(prefix=WORK, dir=self.directory))
            try:
                yield place
            finally:
                shutil.rmtree(place, ignore_errors=True)

    def _places(self, subject: str, part: str, layout: Layout) -> tuple[Path, Path]:
        name = hashlib.sha256(repr((subject, part, layout)).encode()).hexdigest()[:32]
        return self.directory / f"{name}{ABOUT}", self.directory / f"{name}{CODE}"

    def _about(self, path: Path) -> Compiled | None:
        try:
            with path.open("rb") as file:
                told = json.loads(file.read(_LONGEST_ABOUT))
            if told["format"] != FORMAT:
                return None
            layout = tuple((tuple(shape), tuple(strides), kind) for shape, strides, kind in told["layout"])
            return Compiled(*(str(told[key]) for key in ("subject", "part")), layout, told["sha256"], told["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @staticmethod
    def _check_owner(path: Path) -> None:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise StoreError(f"{path} is a link; compiled code is kept in a directory itself")
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
            raise StoreError(f"others can write to {path}: compiled code is not read from there; chmod go-w {path}")

    @staticmethod
    def _touch(path: Path) -> None:
        try:
            os.utime(path)
        except OSError:  # it may be there to be read only
            return

    @staticmethod
    def _remove(*paths: Path) -> None:
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError:
                return

    def _make_room(self, newest: Path) -> None:
        """Removes what was used longest ago until the rest fits, and code without a note."""
        notes = {path.stem: path for path in self.directory.glob(f"*{ABOUT}")}
        codes = [path for path in self.directory.glob(f"*{CODE}") if path != newest]
        used = newest.stat().st_size
        for code in sorted(codes, key=lambda c: -notes[c.stem].stat().st_mtime if c.stem in notes else 0.0):
            used += code.stat().st_size
            if code.stem not in notes or used > self.budget:
                self._remove(self.directory / f"{code.stem}{ABOUT}", code)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _locked(file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
