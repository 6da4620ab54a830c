"""The version that the table names is the one that serves: at the start, and whenever the table changes.

A version is read, compared with its digests, loaded and asked something before it serves; whoever is being answered by
the one before goes on with that. A version that can't be used is marked as broken and never replaces one that can.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.engines import Engine, EngineLoader, EngineProvider
from backend.errors import EXPECTED, ModelUnavailableError
from backend.logs import where
from backend.model_versions import BROKEN, ModelVersionError, ModelVersions
from x2sam.errors import BusyError, CancelledError, DeviceError
from x2sam.structures import Point, Prompt

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_SIDE = 96


@dataclass(frozen=True)
class VersionLoader:
    """How an entry point makes engines. ``base``: that of the settings; ``load``: from a directory; ``root``: the
    version that ``base`` has, found without loading it."""

    base: EngineProvider
    load: Callable[[Path], Engine]
    root: Callable[[], str]


class HotSwap:
    """One for a server. ``replaced`` is called with the version in service, again and again while the one before is
    still used: it lets go of what is kept for later requests."""

    def __init__(
        self, engines: EngineLoader, versions: ModelVersions, loader: VersionLoader,
        replaced: Callable[[str], None], seconds: float = _LOOK_SECONDS,
    ):  # fmt: skip
        self._engines, self._versions, self._loader = engines, versions, loader
        self._replaced, self._seconds = replaced, seconds
        self._seen: tuple[int, int, int] | None = None
        self._serving = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hot-swap", daemon=True)

    def first(self) -> Engine:
        """The engine to start with: the version that should serve, else the one before it, at last the settings'."""
        tried: set[str] = set()
        while True:
            self._seen = self._versions.stamp()
            name = self._wanted()
            engine = self._attempt(name) if name and name not in tried else None
            if engine is not None:
                self._serving = name
                return engine
            if not name or name in tried:  # such a one that the table can't be changed
                return self._loader.base()
            tried.add(name)

    def start(self) -> None:
        """Begins to watch the table."""
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    @property
    def serving(self) -> str:
        """The version that was learned from corrections and serves; "" for the model of the settings."""
        return self._serving

    def _watch(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self._look()
            except Exception as error:  # the thread must live on, whatever a library does
                fields = {"error": type(error).__name__, "at": where(error)}
                log.error("unexpected error while versions of the model were looked at", extra={"fields": fields})

    def _look(self) -> None:
        stamp = self._versions.stamp()
        if stamp == self._seen or self._engines.state == "loading" or self._engines.retiring:
            return
        self._seen = stamp
        name = self._wanted()
        if name == self._serving:
            return
        engine = self._attempt(name)
        if engine is None:
            return
        self._serving = name
        self._engines.replace(engine, lambda: self._replaced(engine.version))
        log.info("version %s serves now", engine.version)

    def _wanted(self) -> str:
        try:
            table = self._versions.table()
        except ModelVersionError as error:
            log.error("%s", error)
            return self._serving
        if not table.current:
            return ""
        root, own = table.versions[table.current].root, self._loader.root()
        if root != own:
            log.warning("version %s began with %s, not with %s: it is not used", table.current, root, own)
            return ""
        return table.current

    def _attempt(self, name: str) -> Engine | None:
        """An engine that answered a question; None where the version can't be used, which is told and written down."""
        try:
            return self._tried(name)
        except (BusyError, CancelledError, DeviceError) as error:  # not the version's fault: another time it may work
            log.error("version %s can't be loaded now: %s", name or "of the settings", error)
        except EXPECTED as error:
            log.error("version %s can't serve: %s", name or "of the settings", error)
            self._mark(name, str(error))
        except Exception as error:  # of a library: the device's memory may be full
            fields = {"error": type(error).__name__, "at": where(error)}
            log.error("version %s could not be loaded", name or "of the settings", extra={"fields": fields})
        return None

    def _tried(self, name: str) -> Engine:
        if name:
            self._versions.check(name)
        engine = self._loader.load(self._versions.directory(name)) if name else self._loader.base()
        try:
            if name and engine.version != name:
                raise ModelVersionError(f"Version {name} is {engine.version} when it is loaded; train it again.")
            try_out(engine)
        except BaseException:
            engine.close()
            raise
        return engine

    def _mark(self, name: str, reason: str) -> None:
        if not name:
            return
        try:
            self._versions.decided(name, BROKEN, reason)
        except ModelVersionError as problem:
            log.error("%s", problem)


def try_out(engine: Engine) -> None:
    """Asks for a square on a plain picture.

    :raises ModelUnavailableError: what comes back is no mask, or its score is no number.
    """
    picture = np.full((_SIDE, _SIDE, 3), 60, np.uint8)
    picture[_SIDE // 4 : -_SIDE // 4, _SIDE // 4 : -_SIDE // 4] = 200
    session = engine.open(picture[None])
    try:
        masks = session.segment(Prompt(points=(Point(_SIDE / 2, _SIDE / 2),)), 0)
    except (*EXPECTED, MemoryError):
        raise
    except Exception as error:  # of a library that stumbles over numbers that are none
        raise ModelUnavailableError(
            f"The model does not answer a click ({type(error).__name__}); its weights are damaged."
        ) from error
    finally:
        session.close()
    if not masks or any(one.mask.shape != (_SIDE, _SIDE) or not math.isfinite(one.score) for one in masks):
        raise ModelUnavailableError("The model does not answer a click with a mask; its weights are damaged.")
