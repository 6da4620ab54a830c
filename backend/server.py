"""gunicorn, started from Python: one process that owns the model, threads that answer.

Told to stop (SIGTERM, Ctrl-C), the worker goes on listening while what runs is finished, so that whoever asks meanwhile
is told to try again; then it closes the model and leaves. That takes no longer than the settings allow. A worker whose
device is lost to it does the same, and another one takes its place and loads the model anew.
"""

from __future__ import annotations

import errno
import resource
import selectors
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from gunicorn import glogging
from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import TConn, ThreadWorker

from backend.app import close_app
from backend.settings import Settings
from backend.wsgi import build

_CLOSING_SECONDS = 5.0  # for closing the model after the last answer
_PAGE_THREADS = 64  # for pages of videos, of which each browser asks for six at a time: they wait for one decoder
_CONNECTIONS, _OTHER_FILES = 4096, 512
_HEAD_BYTES = 64 << 10
_HALVES_SECONDS = 0.2
_LINGER_SECONDS = 2.0
_SWITCH_SECONDS = 0.001  # how long a thread keeps Python's lock: short, so that /health gets its turn


class Server(BaseApplication):
    """Serves :func:`backend.wsgi.build` at one address until it is told to stop."""

    def __init__(self, settings: Settings):
        self._settings = settings
        host = settings.host
        self._bind = f"[{host}]:{settings.port}" if ":" in host else f"{host}:{settings.port}"
        super().__init__()

    def init(self, *_: Any) -> None:
        """gunicorn's own command line is not read."""

    def load_config(self) -> None:
        options = {
            "bind": self._bind,
            "workers": 1,
            "worker_class": DrainingWorker,
            "threads": self._settings.threads + _PAGE_THREADS,
            "worker_connections": _connections(),
            "timeout": 120,
            "graceful_timeout": int(self._settings.drain_seconds + _CLOSING_SECONDS) + 1,
            "proc_name": "x2sam-backend",
            "worker_exit": _close,
            "logger_class": PlainLogger,
            "control_socket_disable": True,  # a socket in the home directory, in newer releases
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        # Called in the worker, after the fork: the engine and its threads live there.
        sys.setswitchinterval(_SWITCH_SECONDS)
        return build(self._settings)

    @property
    def settings(self) -> Settings:
        """What the worker reads."""
        return self._settings


class DrainingWorker(ThreadWorker):
    """A gunicorn worker that finishes its work before it stops to listen."""

    def init_process(self) -> None:
        self._halves: list[TConn] = []
        self._halves_due = 0.0
        self._lingering: deque[Connection] = deque()
        seconds = self.app.settings.body_seconds
        silence = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        for listener in self.sockets:  # connections inherit it: a silent client must not keep a thread
            listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, silence)
        super().init_process()

    def accept(self, listener: Any) -> None:
        """A new connection waits here for the head of its request, and not in a thread: a thousand silent ones take
        none away from others."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED):
                return
            raise
        self.nr_conns += 1
        conn = Connection(self.cfg, client, address, listener.getsockname())
        conn.linger = self._linger
        conn.timeout = time.monotonic() + self.app.settings.body_seconds
        self.pending_conns.append(conn)
        self.poller.register(client, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def on_pending_socket_readable(self, conn: TConn, client: Any) -> None:
        """Something came. Half a head would wake us again and again, so it is looked at with the time."""
        head = _head(client)
        if head is None:
            self.poller.unregister(client)
            self._halves.append(conn)
        elif _asks_for_health(head):
            self._answer_here(conn, client)
        else:
            super().on_pending_socket_readable(conn, client)

    def _answer_here(self, conn: TConn, client: Any) -> None:
        """In this thread, which waits for nobody: handing a request to another and back takes Python's lock a dozen
        times, and where others are busy each time is a wait."""
        self.poller.unregister(client)
        self.pending_conns.remove(conn)
        conn.data_ready = True
        answered: Future[bool] = Future()
        answered.set_result(self.handle(conn))
        self.finish_request(conn, answered)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Waits a second at most, and not so long where halves of heads wait to be looked at."""
        super().wait_for_and_dispatch_events(min(timeout, _HALVES_SECONDS) if self._halves else timeout)

    def murder_pending(self) -> None:
        """Called after each wait: closes what kept silent for too long."""
        now = time.monotonic()
        if self._halves and now >= self._halves_due:
            self._halves_due = now + _HALVES_SECONDS
            self._look_at_halves()
        super().murder_pending()
        while self._lingering and self._lingering[0].timeout <= now:
            self._let_go(self._lingering[0])

    def _look_at_halves(self) -> None:
        """Takes up heads that are whole now."""
        waiting = set(self.pending_conns)
        self._halves, halves = [], [conn for conn in self._halves if conn in waiting]
        for conn in halves:
            if _head(conn.sock) is None:
                self._halves.append(conn)
            else:
                self.pending_conns.remove(conn)
                conn.data_ready = True
                self.enqueue_req(conn)

    def _linger(self, conn: Connection) -> None:
        """The answer was sent. A socket that is closed with unread data takes it back, so what still comes is thrown
        away for a while, and nobody waits for it."""
        conn.sock.setblocking(False)
        conn.sock.shutdown(socket.SHUT_WR)
        conn.timeout = time.monotonic() + _LINGER_SECONDS
        self.nr_conns += 1
        self._lingering.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._throw_away, conn))
        self._throw_away(conn, conn.sock)  # most have closed it already

    def _throw_away(self, conn: Connection, client: socket.socket) -> None:
        try:
            came = len(client.recv(_HEAD_BYTES))
        except BlockingIOError:
            return
        except OSError:
            came = 0
        conn.unread -= came
        if not came or conn.unread <= 0:
            self._let_go(conn)

    def _let_go(self, conn: Connection) -> None:
        self._lingering.remove(conn)
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def _cap_keepalive(self, deadline: float) -> None:
        """Told to stop: nobody waits for those who say nothing."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def handle_exit(self, sig: int, frame: Any) -> None:
        app = getattr(self, "wsgi", None)
        if app is None or not self.alive:
            super().handle_exit(sig, frame)
            return
        services = app.extensions["x2sam"]
        if not services.admission.stopping:
            # In a thread: a signal's handler may have interrupted somebody who holds the locks that are needed.
            threading.Thread(target=self._drain, args=(services, sig, frame), name="drain", daemon=True).start()

    def notify(self) -> None:
        """Called every second. Where the device is lost to this process, another one is started in its place."""
        super().notify()
        app = getattr(self, "wsgi", None)
        engine = app.extensions["x2sam"].engines.ready_engine if app is not None else None
        if self.alive and engine is not None and engine.vitals.lost:
            self.handle_exit(signal.SIGTERM, None)

    def _drain(self, services: Any, sig: int, frame: Any) -> None:
        until = time.monotonic() + self.app.settings.drain_seconds
        services.admission.stop()
        self.log.info("stopping: %d requests are worked on", services.admission.running)
        if not services.admission.wait_idle(until - time.monotonic()):
            self.log.warning("stopping: %d requests were not finished in time", services.admission.running)
            services.engines.close()  # what waits is told so
        super().handle_exit(sig, frame)


class Connection(TConn):
    """A connection whose end nobody waits for: gunicorn's waits two seconds for a client that does not close its side,
    in the thread that everybody needs."""

    linger: Callable[[Connection], None]
    unread = _HEAD_BYTES  # so much is thrown away at the end

    def close(self, graceful: bool = False) -> None:
        """``graceful``: what was sent should arrive."""
        try:
            if graceful:
                self.linger(self)
                return
        except OSError:  # the client is gone
            pass
        super().close()


def _head(client: socket.socket) -> bytes | None:
    """What has come of a request; None while a thread would have to wait for the rest of its head."""
    try:
        came = client.recv(_HEAD_BYTES, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError:
        return b""
    return came if not came or b"\r\n\r\n" in came or len(came) == _HEAD_BYTES else None


def _asks_for_health(head: bytes) -> bool:
    """Whether this is a whole request without a body for ``/health``, which is answered without waiting."""
    if not head.startswith(b"GET /health HTTP/1.") or not head.endswith(b"\r\n\r\n"):
        return False
    names = head.lower()
    return b"\ncontent-length" not in names and b"\ntransfer-encoding" not in names


def _connections() -> int:
    """How many connections may be open at once: files and pictures need a few handles too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _CONNECTIONS + _OTHER_FILES:
        soft = min(_CONNECTIONS + _OTHER_FILES, hard) if hard != resource.RLIM_INFINITY else _CONNECTIONS + _OTHER_FILES
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(64, min(_CONNECTIONS, soft - _OTHER_FILES))


class PlainLogger(glogging.Logger):
    """gunicorn's messages go where all others go; it writes no line for each request, the app does."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self.error_log.propagate = True
        self.error_log.handlers[:] = []
        self.access_log.propagate = False
        self.access_log.handlers[:] = []

    def access(self, *_: Any) -> None:
        """The app's own line has what is needed."""


def _close(_server: Any, worker: Any) -> None:
    app = getattr(worker, "wsgi", None)
    if app is not None:
        close_app(app)
