"""Which numbers of a server stand in ``/metrics`` besides those of its requests: what is kept, runs and waits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from backend.answers import Services
from backend.file_cache import FileCache


def watch_everything(services: Services, cache: FileCache) -> None:
    """Gives ``/metrics`` what the parts of a server tell about themselves; ``cache`` has the fetched files."""
    metrics, engines = services.metrics, services.engines
    watch = metrics.watch
    watch("x2sam_model_ready", "1 when the model is loaded", lambda: engines.state == "ready")
    watch("x2sam_engines_retiring", "Engines that were replaced and are still used", lambda: engines.retiring)
    watch("x2sam_sessions", "Open pictures and clips", lambda: len(services.sessions))
    for name, kept, what in (("media_cache", cache, "Files"), ("decoded", services.decoded, "Decoded pictures")):
        metrics.count(f"x2sam_{name}_hits", f"{what} that were there when needed", partial(getattr, kept, "hits"))
        metrics.count(f"x2sam_{name}_misses", f"{what} that had to be got", partial(getattr, kept, "misses"))
    watch("x2sam_media_cache_bytes", "Size of the file cache", lambda: cache.total_bytes)
    watch("x2sam_frames_bytes", "Size of the pages of videos kept on disk", lambda: services.fetcher.videos.total_bytes)
    watch("x2sam_decoded_bytes", "Size of the decoded pictures kept", lambda: services.decoded.total_bytes)
    watch("x2sam_remembered_bytes", "Size of prompts and masks kept", lambda: services.remembered.total_bytes)
    watch("x2sam_journal_bytes", "Size of the journal on disk", lambda: services.journal.total_bytes)
    watch(
        "x2sam_journal_owed_bytes",
        "Size of what the journal could not be told yet",
        lambda: services.journal.owed_bytes,
    )
    watch("x2sam_tracks_running", "Tracks over pages that run or wait for others", lambda: services.tracks.running)
    metrics.count("x2sam_track_pages", "Pages that tracks have come by", lambda: services.tracks.pages_done)
    _watch_features(services)
    _watch_learning(services)
    _watch_recording(services)
    metrics.watch_engine(lambda: engines.ready_engine.vitals if engines.ready_engine else None)
    watch("x2sam_requests_running", "Requests for predictions that are worked on", lambda: services.admission.running)


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
