"""The app factory: settings and an engine provider in, a Flask app out. Importing this does nothing."""

from __future__ import annotations

from pathlib import Path

from flask import Flask
from werkzeug.exceptions import HTTPException

from backend.answers import Services
from backend.engines import EngineLoader, EngineProvider
from backend.errors import BackendError
from backend.file_cache import FileCache
from backend.frames import DecodedPictures
from backend.media import MediaFetcher
from backend.metrics import Metrics
from backend.model import X2SAMModel
from backend.routes import as_json, blueprint, http_as_json
from backend.sessions import SessionRegistry
from backend.settings import Settings
from backend.video_routes import blueprint as videos
from x2sam.errors import X2SAMError


def create_services(settings: Settings, engine_provider: EngineProvider) -> Services:
    """Everything that outlives a request; the engine starts to load in a thread of its own."""
    folder = Path(settings.media_cache_dir).expanduser()
    cache = FileCache(folder, settings.media_cache_bytes, settings.media_cache_seconds)
    services = Services(
        settings=settings,
        engines=EngineLoader(engine_provider),
        sessions=SessionRegistry(settings.max_sessions, settings.session_seconds),
        fetcher=MediaFetcher(settings, cache),
        decoded=DecodedPictures(settings.decoded_bytes),
        metrics=Metrics(),
    )
    watch = services.metrics.watch
    watch("x2sam_model_ready", "1 when the model is loaded", lambda: services.engines.state == "ready")
    watch("x2sam_sessions", "Open pictures and clips", lambda: len(services.sessions))
    watch("x2sam_media_cache_bytes", "Size of the file cache", lambda: cache.total_bytes)
    watch("x2sam_frames_bytes", "Size of the pages of videos kept on disk", lambda: services.fetcher.videos.total_bytes)
    watch("x2sam_decoded_bytes", "Size of the decoded pictures kept", lambda: services.decoded.total_bytes)
    services.engines.start()
    return services


def create_app(settings: Settings, engine_provider: EngineProvider) -> Flask:
    """The web application. ``engine_provider()`` returns a loaded engine and is called once, in a thread."""
    services = create_services(settings, engine_provider)
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_request_bytes
    app.json.sort_keys = False
    app.extensions["x2sam"] = services
    app.extensions["x2sam-model"] = X2SAMModel.bound_to(services)
    app.register_blueprint(blueprint)
    app.register_blueprint(videos)
    app.register_error_handler(BackendError, as_json)
    app.register_error_handler(X2SAMError, as_json)
    app.register_error_handler(HTTPException, http_as_json)
    return app


def close_services(services: Services) -> None:
    """Closes sessions and the engine; for the end of the process."""
    services.sessions.close()
    services.engines.close()
