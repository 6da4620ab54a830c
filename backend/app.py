"""The app factory: settings and an engine provider in, a Flask app out. Importing this does nothing."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from flask import Flask

from backend.admission import Admission
from backend.answers import Services
from backend.auth import Gate
from backend.background import Tracks
from backend.effort_meter import EffortMeter, EffortNumbers, prediction_by, unknown_prediction
from backend.engines import EngineLoader, EngineProvider
from backend.events import EventLog
from backend.file_cache import FileCache
from backend.frames import DecodedPictures, TaskFrames
from backend.hot_swap import HotSwap, VersionLoader
from backend.journal import Journal
from backend.label_studio_api import LabelStudioApi
from backend.learner import Learner
from backend.look_list import LookLists
from backend.media import MediaFetcher
from backend.metrics import Metrics
from backend.model import X2SAMModel
from backend.model_versions import ModelVersions
from backend.next_tasks import NextTasks
from backend.pseudonyms import Pseudonyms
from backend.readiness import DiskCheck
from backend.recorder import Recorder, around_recorder
from backend.remembered import Remembered
from backend.routes import blueprint, register_errors
from backend.sessions import SessionRegistry
from backend.settings import Settings
from backend.starting import check_folders
from backend.video_files import VideoFiles
from backend.video_routes import blueprint as videos
from backend.video_walk import PausedWalks
from backend.warming import Warmer, frames_by
from backend.watched import watch_everything
from backend.webhooks import WebhookKeeper

_TRACKS_SECONDS = 3.0  # for the frame that each track is at
_NOTES_SECONDS = 1.0  # for what is to be written into tasks


def create_services(
    settings: Settings, engine_provider: EngineProvider, loader: VersionLoader | None = None,
    journal: Journal | None = None,
) -> Services:  # fmt: skip
    """Everything that outlives a request; the engine starts to load in a thread of its own. With a ``loader`` versions
    that were learned from corrections serve. ``journal`` is the server's, unless another is given."""
    folder = Path(settings.media_cache_dir).expanduser()
    check_folders(settings)
    cache = FileCache(folder, settings.media_cache_bytes, settings.media_cache_seconds)
    metrics = Metrics()
    versions = ModelVersions(models_folder(settings), settings.versions)
    sessions, walks = SessionRegistry(settings.max_sessions, settings.session_seconds), PausedWalks()

    def replaced(version: str) -> None:
        sessions.drop_other_versions(version)
        walks.give_up_others(version)

    engines = EngineLoader(engine_provider if loader is None else lambda: swap.first())
    swap = HotSwap(engines, versions, loader, replaced) if loader is not None else None
    fetcher, decoded = MediaFetcher(settings, cache), DecodedPictures(settings.decoded_bytes)
    frames_of = frames_by(settings, fetcher, decoded)
    journal = journal or _journal(settings)
    events = EventLog(journal)
    look_lists = LookLists((lambda: LabelStudioApi(settings)) if settings.label_studio_api_key else None)

    def version() -> str:
        engine = engines.ready_engine
        return engine.version if engine is not None else ""

    remembered = Remembered(max_bytes=settings.remembered_bytes, journal=journal, version=version)

    def pages_at(addresses: Sequence[str]) -> TaskFrames:
        return TaskFrames(addresses, fetcher, decoded, settings.max_pixels)

    learner = Learner(settings, journal, events, metrics)
    tracks = Tracks(engines, journal, pages_at, settings.tracks, look_lists)
    recorder = Recorder(settings, around_recorder(engines, fetcher, remembered, tracks, learner))
    services = Services(
        settings=settings,
        engines=engines,
        sessions=sessions,
        walks=walks,
        versions=versions,
        swap=swap,
        fetcher=fetcher,
        decoded=decoded,
        metrics=metrics,
        warmer=Warmer(settings, engines, NextTasks(fetcher.ask_label_studio), frames_of, metrics),
        video_files=VideoFiles(fetcher, settings.max_pixels),
        admission=_admission(settings),
        remembered=remembered,
        journal=journal,
        effort=_effort_meter(settings, metrics, remembered, fetcher),
        events=events,
        learner=learner,
        recorder=recorder,
        tracks=tracks,
        look_lists=look_lists,
    )
    watch_everything(services, cache)
    _start(services)
    return services


def _start(services: Services) -> None:
    """What an earlier process left is taken up, and the engine loads."""
    services.remembered.restore()
    services.engines.start()
    if services.swap is not None:
        services.swap.start()
    services.tracks.resume()
    services.learner.start()
    services.recorder.start()


def models_folder(settings: Settings) -> Path:
    """Where versions of the model are that were learned from corrections."""
    return Path(settings.state_dir).expanduser() / "models"


def _admission(settings: Settings) -> Admission:
    """A quarter of the threads is left to what must be answered at once."""
    threads = settings.threads
    return Admission(threads - threads // 4, settings.max_request_bytes, aside=threads // 8)


def _effort_meter(settings: Settings, metrics: Metrics, remembered: Remembered, fetcher: MediaFetcher) -> EffortMeter:
    numbers = EffortNumbers(metrics.registry, settings.report_annotators)
    prediction = prediction_by(fetcher.ask_label_studio) if settings.label_studio_api_key else unknown_prediction
    people = Pseudonyms.wanted(settings)
    return EffortMeter(numbers, remembered.steps, prediction, people, settings.polygon_tolerance)


def _journal(settings: Settings) -> Journal:
    folder = Path(settings.state_dir).expanduser() if settings.journal_bytes else None
    return Journal(folder, settings.journal_bytes, settings.journal_days * 86400)


def create_app(settings: Settings, engine_provider: EngineProvider, loader: VersionLoader | None = None) -> Flask:
    """The web application. ``engine_provider()`` returns a loaded engine and is called once, in a thread; ``loader``
    loads the versions that were learned since."""
    services = create_services(settings, engine_provider, loader)
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_request_bytes
    app.json.sort_keys = False
    gate = Gate(settings)
    app.extensions["x2sam"] = services
    app.extensions["x2sam-gate"] = gate
    app.extensions["x2sam-patience"] = threading.Semaphore(max(1, settings.threads // 16))
    app.extensions["x2sam-disk"] = DiskCheck(Path(settings.media_cache_dir).expanduser())
    app.extensions["x2sam-webhooks"] = _webhook_keeper(settings, gate)
    app.extensions["x2sam-model"] = X2SAMModel.bound_to(services)
    app.register_blueprint(blueprint)
    app.register_blueprint(videos)
    register_errors(app)
    return app


def _webhook_keeper(settings: Settings, gate: Gate) -> WebhookKeeper | None:
    """Only where webhooks need a secret and Label Studio can be asked, and where ``/setup`` comes from Label Studio."""
    if not (gate.webhook_secret and settings.label_studio_api_key and settings.asks_for_credentials):
        return None
    return WebhookKeeper(lambda: LabelStudioApi(settings), gate.webhook_secret, (settings.public_url,))


def close_app(app: Flask) -> None:
    """Ends what :func:`create_app` began; for the end of the process."""
    keeper = app.extensions["x2sam-webhooks"]
    if keeper is not None:
        keeper.close()
    close_services(app.extensions["x2sam"])


def close_services(services: Services) -> None:
    """Closes sessions and the engine; tracks that run are left to the next start."""
    if services.swap is not None:
        services.swap.close()
    services.learner.close()
    services.recorder.close()
    services.warmer.close()
    services.effort.close()
    services.tracks.close(_TRACKS_SECONDS)
    services.look_lists.close(_NOTES_SECONDS)
    services.sessions.close()
    services.engines.close()
    services.journal.close()
