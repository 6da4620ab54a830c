"""The app factory: settings and an engine provider in, a Flask app out. Importing this does nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
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
        admission=Admission(
            settings.threads - settings.threads // 4, settings.max_request_bytes, aside=settings.threads // 8
        ),
        remembered=remembered,
        journal=journal,
        effort=_effort_meter(settings, metrics, remembered, fetcher),
        events=events,
        learner=learner,
        recorder=recorder,
        tracks=tracks,
        look_lists=look_lists,
    )
    watch = services.metrics.watch
    watch("x2sam_model_ready", "1 when the model is loaded", lambda: services.engines.state == "ready")
    watch("x2sam_engines_retiring", "Engines that were replaced and are still used", lambda: engines.retiring)
    watch("x2sam_sessions", "Open pictures and clips", lambda: len(services.sessions))
    for name, kept, what in (("media_cache", cache, "Files"), ("decoded", decoded, "Decoded pictures")):
        metrics.count(f"x2sam_{name}_hits", f"{what} that were there when needed", partial(getattr, kept, "hits"))
        metrics.count(f"x2sam_{name}_misses", f"{what} that had to be got", partial(getattr, kept, "misses"))
    watch("x2sam_media_cache_bytes", "Size of the file cache", lambda: cache.total_bytes)
    watch("x2sam_frames_bytes", "Size of the pages of videos kept on disk", lambda: services.fetcher.videos.total_bytes)
    watch("x2sam_decoded_bytes", "Size of the decoded pictures kept", lambda: services.decoded.total_bytes)
    watch("x2sam_remembered_bytes", "Size of prompts and masks kept", lambda: services.remembered.total_bytes)
    watch("x2sam_journal_bytes", "Size of the journal on disk", lambda: journal.total_bytes)
    watch("x2sam_journal_owed_bytes", "Size of what the journal could not be told yet", lambda: journal.owed_bytes)
    watch("x2sam_tracks_running", "Tracks over pages that run or wait for others", lambda: services.tracks.running)
    metrics.count("x2sam_track_pages", "Pages that tracks have come by", lambda: services.tracks.pages_done)
    _watch_features(services)
    _watch_learning(services)
    _watch_recording(services)
    metrics.watch_engine(lambda: engines.ready_engine.vitals if engines.ready_engine else None)
    watch("x2sam_requests_running", "Requests for predictions that are worked on", lambda: services.admission.running)
    services.remembered.restore()
    services.engines.start()
    if swap is not None:
        swap.start()
    services.tracks.resume()
    services.learner.start()
    services.recorder.start()
    return services


def models_folder(settings: Settings) -> Path:
    """Where versions of the model are that were learned from corrections."""
    return Path(settings.state_dir).expanduser() / "models"


def _effort_meter(settings: Settings, metrics: Metrics, remembered: Remembered, fetcher: MediaFetcher) -> EffortMeter:
    numbers = EffortNumbers(metrics.registry, settings.report_annotators)
    prediction = prediction_by(fetcher.ask_label_studio) if settings.label_studio_api_key else unknown_prediction
    people = Pseudonyms.wanted(settings)
    return EffortMeter(numbers, remembered.steps, prediction, people, settings.polygon_tolerance)


def _journal(settings: Settings) -> Journal:
    folder = Path(settings.state_dir).expanduser() if settings.journal_bytes else None
    return Journal(folder, settings.journal_bytes, settings.journal_days * 86400)


def _watch_learning(services: Services) -> None:
    """How far a training is that runs."""

    def read(name: str) -> Callable[[], float]:
        return lambda: float((services.learner.progress() or {}).get(name, 0.0))

    watch = services.metrics.watch
    watch("x2sam_training_running", "1 while a training runs", lambda: float(services.learner.progress() is not None))
    watch("x2sam_training_done", "Steps, then pictures to compare, that are done", read("done"))
    watch("x2sam_training_of", "How many there are", read("of"))
    watch("x2sam_training_waited_seconds", "Time for which the training let people go first", read("waited"))


def _watch_recording(services: Services) -> None:
    recorder, watch = services.recorder, services.metrics.watch
    watch("x2sam_recording", "1 while prompts are recorded", lambda: float(recorder.recording))
    watch("x2sam_recording_bytes", "Size of the recording of prompts", lambda: recorder.bytes)
    services.metrics.count("x2sam_recorded_requests", "Requests that were recorded", lambda: recorder.requests)


def _watch_features(services: Services) -> None:
    def read(name: str) -> Callable[[], float]:
        def number() -> float:
            engine = services.engines.ready_engine
            return getattr(engine.features, name) if engine is not None else 0.0

        return number

    def ratio() -> float:
        found = read("hits")() + read("restored")()
        return found / (found + read("misses")()) if found else 0.0

    watch, count = services.metrics.watch, services.metrics.count
    watch("x2sam_feature_hit_ratio", "Share of features that were there when needed, since the start", ratio)
    count("x2sam_feature_hits", "Features of pictures that were in memory when needed", read("hits"))
    count("x2sam_feature_restored", "Features of pictures that were on disk when needed", read("restored"))
    count("x2sam_feature_misses", "Features of pictures that had to be computed", read("misses"))
    watch("x2sam_feature_bytes", "Size of the features of pictures in memory", read("bytes"))
    watch("x2sam_feature_stored_bytes", "Size of the features of pictures on disk", read("stored"))


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
