"""Compiled code for an engine: got from the disk or compiled beside it, tried, and put into service where it is faster.

A process of its own compiles what requests call for, on what nobody else wants of the processor. What it made is held
against the eager way here, on the engine's own weights and device, by jobs that everybody else goes before.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from x2sam.errors import BusyError, CancelledError, DeviceMemoryError, StoreError, X2SAMError
from x2sam.inference.code_files import CODE, CodeFiles, subject_of
from x2sam.inference.native_code import NativeCode
from x2sam.inference.network import PARTS, Code, CodeTable, Layout, numbers_for, weights_of
from x2sam.model.x2sam import X2SAM
from x2sam.placement import find_compiler

ROUNDS = 8
"""How often both ways are timed; the quickest of each counts, as others' work only ever adds to it."""
LEAST_GAIN = 1.03
MOST_APART = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}
"""Difference of a tensor by its size: the largest ones of parts that are steady, else the means. Rounding gives 1e-6 in
float32, but may let a query look at a cell more or less, which moves all its later logits a little."""
COMPILE_SECONDS = 3600.0
_AGAIN_SECONDS = 5.0
_LOOK_SECONDS = 0.5
_LONGEST_REASON = 300

Run = Callable[[Callable[[], Any]], Any]
"""Runs a job on the device's thread when nobody else waits for it."""

log = logging.getLogger(__name__)


class Compiling:
    """Fills ``table`` for as long as the engine lives. Raises nothing: where it fails everything stays eager, and the
    log and :attr:`gains` tell."""

    def __init__(self, model: X2SAM, table: CodeTable, directory: Path, run: Run):
        self._model, self._table, self._directory, self._run = model, table, directory, run
        self._ended: set[tuple[str, Layout]] = set()
        self._gains: dict[str, float] = {}
        self._threads = 1  # of PyTorch, on the device's thread
        self._looked = False  # through what is on the disk already
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="x2sam-compiling", daemon=True)
        self._thread.start()

    @property
    def gains(self) -> dict[str, float]:
        """How many times as quick as the eager way each part is that is in service; 0 for those that are not."""
        return dict(self._gains)

    def settle(self, seconds: float) -> bool:
        """Waits until all that was called for so far is in service or stays eager; False when that takes longer."""
        until = time.monotonic() + seconds
        while self._thread.is_alive() and not (self._looked and set(self._table.asked) <= self._ended):
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True

    def close(self) -> None:
        """Ends a process that compiles."""
        self._stop.set()
        self._table.news.set()
        self._thread.join(10.0)

    def _work(self) -> None:
        try:
            files = CodeFiles(self._directory)
            self._threads = self._patiently(torch.get_num_threads)
            subject = subject_of(self._model, self._threads)
            for one in files.known(subject):
                self._serve(files, subject, one.part, one.layout)
            self._looked = True
            while not self._stop.is_set():
                self._table.news.wait()
                self._table.news.clear()
                for part, layout in self._table.asked:
                    self._serve(files, subject, part, layout)
        except StoreError as error:
            log.warning("nothing is compiled: %s", error)
        except X2SAMError as error:  # the engine was closed, or its device is lost
            log.info("no more is compiled: %s", error)
        except Exception as error:
            log.error("no more is compiled: %s", type(error).__name__, exc_info=error)

    def _serve(self, files: CodeFiles, subject: str, part: str, layout: Layout) -> None:
        """Puts code into service for one layout, or tells why there is none."""
        if (part, layout) in self._ended or part not in PARTS or self._stop.is_set():
            return
        self._gains.setdefault(part, 0.0)
        try:
            path = files.take(subject, part, layout) or self._compiled(files, subject, part, layout)
            code = NativeCode(path, list(weights_of(part, self._model).values()))
            gain = self._tried(part, layout, code)
            self._table.put(part, layout, code)
            self._gains[part] = gain
            log.info("%s is compiled, %.2f times as quick", part, gain)
        except (NotCompiledError, DeviceMemoryError, RuntimeError, OSError) as error:
            log.warning("%s stays eager: %s", part, str(error)[:_LONGEST_REASON])
        finally:
            self._ended.add((part, layout))

    def _tried(self, part: str, layout: Layout, code: Code) -> float:
        """How many times as quick as the eager way. Raises NotCompiledError for code that is not faster, or wrong."""
        eager, steady = PARTS[part].module(self._model), PARTS[part].steady
        inputs = numbers_for(layout, self._model.device)
        times = [self._patiently(lambda: both_ways(eager, code, inputs, steady)) for _ in range(ROUNDS)]
        plain, ours = (min(column) for column in zip(*times, strict=True))
        if plain < LEAST_GAIN * ours:
            raise NotCompiledError(f"compiled it takes {ours * 1e3:.1f} ms, eagerly {plain * 1e3:.1f}")
        return plain / ours

    def _patiently(self, job: Callable[[], Any]) -> Any:
        """The job's result, asked for again where too much waits for the device."""
        while True:
            try:
                return self._run(job)
            except BusyError:
                if self._stop.wait(_AGAIN_SECONDS):
                    raise

    def _compiled(self, files: CodeFiles, subject: str, part: str, layout: Layout) -> Path:
        if not find_compiler():
            raise NotCompiledError("there is no C++ compiler here; install g++, or name one in CXX")
        if not files.writable:
            raise NotCompiledError(f"{files.directory} can't be written")
        with files.workplace(self._stop) as place:
            found = files.take(subject, part, layout)  # by another process, while its end was waited for
            if found is not None:
                return found
            if place is None:
                raise CancelledError("the engine was closed")
            made = place / f"code{CODE}"
            request = {
                "config": self._model.config.to_dict(), "part": part, "layout": layout, "out": str(made),
                "dtype": str(self._model.dtype).removeprefix("torch."), "device": str(self._model.device),
                "threads": self._threads,
            }  # fmt: skip
            seconds = compile_beside(request, place, self._stop)
            return files.keep(subject, part, layout, made, seconds)


class NotCompiledError(Exception):
    """Why a part stays eager."""


def both_ways(eager: nn.Module, code: Code, inputs: Sequence[Tensor], steady: bool) -> tuple[float, float]:
    """Seconds of the eager way and of the code. Raises NotCompiledError where their outputs differ."""
    plain, expected = _timed(lambda: eager(*inputs))
    ours, found = _timed(lambda: code(list(inputs)))
    wrong = differs(found, expected, steady)
    if wrong:
        raise NotCompiledError(wrong)
    return plain, ours


def differs(found: Sequence[Tensor], expected: Sequence[Tensor], steady: bool) -> str:
    """What is wrong with compiled outputs beside eager ones, within what rounding can do; empty where nothing is."""
    size = torch.amax if steady else torch.mean
    if [t.shape for t in found] != [t.shape for t in expected]:
        return "its outputs have other shapes"
    for number, (ours, plain) in enumerate(zip(found, expected, strict=True)):
        apart = float(size((ours - plain).abs().float()) / size(plain.abs().float()).clamp(min=1e-12))
        if not apart <= MOST_APART[plain.dtype]:
            return f"output {number} is {apart:.1e} of its size apart from the eager one"
    return ""


def compile_beside(request: dict[str, Any], place: Path, stop: threading.Event, modest: bool = True) -> float:
    """Compiles in a process of its own, which has ``place`` for its files; the seconds that it took.

    modest: it only gets what nobody else wants of the processor
    Raises NotCompiledError where nothing came of it, CancelledError where ``stop`` was set.
    """
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    own = {
        "PYTHONPATH": path, "TMPDIR": str(place), "TORCHINDUCTOR_CACHE_DIR": str(place / "cache"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "x2sam.inference.compile_child"]
    with (place / "told").open("wb") as told, (place / "errors").open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=told, stderr=errors, env=os.environ | own, start_new_session=True
        )
        try:
            if modest:
                _make_modest(process.pid)
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            _wait(process, stop)
        except (BrokenPipeError, ProcessLookupError):  # it ended already; what it said tells why
            process.wait(COMPILE_SECONDS)
        finally:
            _end(process)
    return _answer(process.returncode, place)


def _make_modest(process: int) -> None:
    """From its first moment a process gets what nobody else wants of the processor, and so do those that it begins."""
    os.setpriority(os.PRIO_PROCESS, process, 19)
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(process, os.SCHED_IDLE, os.sched_param(0))


def _wait(process: subprocess.Popen, stop: threading.Event) -> None:
    until = time.monotonic() + COMPILE_SECONDS
    while process.poll() is None:
        if stop.wait(_LOOK_SECONDS):
            raise CancelledError("the engine was closed")
        if time.monotonic() > until:
            raise NotCompiledError(f"it was not compiled within {COMPILE_SECONDS:.0f} s")


def _end(process: subprocess.Popen) -> None:
    """Ends the process and the compilers that it began."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdin.close()


def _answer(code: int, place: Path) -> float:
    try:
        told = json.loads((place / "told").read_text())
        seconds, wrong = float(told["seconds"]), str(told["differs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        lines = (place / "errors").read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        raise NotCompiledError(f"it could not be compiled (exit code {code}): {lines[-1]}") from error
    if wrong:
        raise NotCompiledError(wrong)
    return seconds


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    value = work()
    if value[0].device.type == "cuda":
        torch.cuda.synchronize(value[0].device)
    return time.perf_counter() - began, value
