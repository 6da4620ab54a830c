"""Entry point for web servers: ``gunicorn 'backend.wsgi:build()' --workers 1 --threads 16 --worker-class gthread``.

One process owns the model, so one worker; threads answer.
"""

from __future__ import annotations

from pathlib import Path

from flask import Flask

from backend.app import create_app
from backend.engines import Engine
from backend.settings import Settings


def load_engine(settings: Settings) -> Engine:
    """The engine that the settings name. PyTorch is imported here and nowhere else in this package."""
    from x2sam.inference.engine import Engine as X2SAMEngine

    return X2SAMEngine.load(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        cache_bytes=settings.features_bytes,
        store=Path(settings.features_dir).expanduser() if settings.features_dir else None,
        store_bytes=settings.features_disk_bytes,
    )


def build(settings: Settings | None = None) -> Flask:
    """The app with the real engine, configured by the environment unless settings are given."""
    settings = settings or Settings.from_environment()
    return create_app(settings, lambda: load_engine(settings))
