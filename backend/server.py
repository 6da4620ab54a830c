"""gunicorn, started from Python: one process that owns the model, threads that answer."""

from __future__ import annotations

from typing import Any

from gunicorn.app.base import BaseApplication

from backend.app import close_services
from backend.settings import Settings
from backend.wsgi import build


class Server(BaseApplication):
    """Serves :func:`backend.wsgi.build` at one address until it is told to stop."""

    def __init__(self, settings: Settings, host: str, port: int):
        self._settings = settings
        self._bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        super().__init__()

    def init(self, *_: Any) -> None:
        """gunicorn's own command line is not read."""

    def load_config(self) -> None:
        options = {
            "bind": self._bind,
            "workers": 1,
            "worker_class": "gthread",
            "threads": self._settings.threads,
            "timeout": 120,
            "graceful_timeout": 20,
            "proc_name": "x2sam-backend",
            "worker_exit": _close,
            "control_socket_disable": True,  # a socket in the home directory, in newer releases
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        # Called in the worker, after the fork: the engine and its threads live there.
        return build(self._settings)


def _close(_server: Any, worker: Any) -> None:
    app = getattr(worker, "wsgi", None)
    if app is not None:
        close_services(app.extensions["x2sam"])
