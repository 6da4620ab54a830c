"""Entry point for web servers: ``gunicorn 'backend.wsgi:build()' --workers 1 --threads 16 --worker-class gthread``.

One process owns the model, so one worker; threads answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from flask import Flask

from backend import logs
from backend.app import create_app
from backend.engines import Engine
from backend.errors import SettingsError
from backend.heap import HeapKeeper
from backend.hot_swap import VersionLoader
from backend.settings import Settings
from backend.starting import base_directory, base_model, check_device, code_folder
from x2sam.placement import version_of


def load_engine(settings: Settings, directory: Path | None = None) -> Engine:
    """The engine that the settings name, or one from a directory. PyTorch is imported in this file and nowhere else in
    this package."""
    _tell_home(settings)
    import torch

    from x2sam.inference.engine import Engine as X2SAMEngine

    if settings.cpu_threads or "OMP_NUM_THREADS" not in os.environ:
        # one core is left to the threads that answer
        torch.set_num_threads(settings.cpu_threads or max(1, torch.get_num_threads() - 1))
    return X2SAMEngine.load(
        base_model(settings) if directory is None else directory,
        device=settings.device,
        dtype=settings.dtype,
        cache_bytes=settings.features_bytes,
        store=Path(settings.features_dir).expanduser() if settings.features_dir else None,
        store_bytes=settings.features_disk_bytes,
        memory=settings.memory,
        waiting=settings.queue,
        together=settings.together or None,
        hang=settings.hang_seconds,
        compiled=code_folder(settings) if settings.compiled else None,
    )


def engines_of(settings: Settings) -> Callable[..., Engine]:
    """How engines are made: of the model of the settings, or of one in a directory; in this process or on Ray.

    :raises SettingsError: Ray is asked for and not installed.
    """
    if settings.engine != "ray":
        return partial(_in_this_process, settings)
    # Stopping a server is no failure: without this Ray prints where each thread is when SIGTERM comes.
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        from backend.ray_engine import Cluster
    except ModuleNotFoundError as error:
        raise SettingsError(f"X2SAM_ENGINE=ray needs {error.name}: pip install 'ray[serve,data]'.") from error
    cluster = Cluster(settings)
    return lambda directory=None: cluster.start(partial(load_engine, directory=directory))


def _in_this_process(settings: Settings, directory: Path | None = None) -> Engine:
    return load_engine(settings) if directory is None else load_engine(settings, directory)


def _tell_home(settings: Settings) -> None:
    if settings.model_dir:
        os.environ["X2SAM_HOME"] = str(Path(settings.model_dir).expanduser())


def loader_for(settings: Settings) -> VersionLoader:
    """How versions of the model that were learned from corrections are loaded."""
    make = engines_of(settings)

    def root() -> str:
        _tell_home(settings)
        return version_of(base_directory(settings))

    return VersionLoader(make, make, root)


def build(settings: Settings | None = None) -> Flask:
    """The app with the real engine, configured by the environment unless settings are given.

    :raises SettingsError: a setting can't be used; or none are given, so nobody knows who can reach the server, and
        there are no credentials.
    """
    if settings is None:
        settings = Settings.from_environment()
        settings.check_exposure(None)
        logs.configure(settings.logging_level, settings.log_format)
    check_device(settings)
    loader = loader_for(settings)
    app = create_app(settings, loader.base, loader)
    admission = app.extensions["x2sam"].admission
    HeapKeeper(lambda: admission.running > 0).start()
    return app
