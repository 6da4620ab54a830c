"""The endpoints of Label Studio's ML backend protocol: parse, call the model class, answer JSON."""

from __future__ import annotations

import logging
import uuid
from contextlib import ExitStack
from typing import Any

from flask import Blueprint, Response, current_app, g, jsonify, request
from werkzeug.exceptions import HTTPException

from backend import logs
from backend.admission import ASIDE_BYTES
from backend.answers import Services
from backend.bodies import as_json_text, read_json
from backend.engines import EngineLoader
from backend.errors import EXPECTED, ModelUnavailableError, OverloadedError, StoppingError, status_of
from backend.model import X2SAMModel
from backend.protocol import PredictRequest, parse_predict, parse_setup, parse_webhook
from backend.readiness import problems, warnings
from backend.settings import MEGABYTE

log = logging.getLogger(__name__)

blueprint = Blueprint("backend", __name__)

_SETUP_SECONDS = 2.0  # Label Studio gives /setup three
_SETUP_BYTES = 8 * MEGABYTE  # a labeling configuration and a few words
_ASKED_BY_MACHINES = frozenset({"health", "ready", "metrics"})


def _services() -> Services:
    return current_app.extensions["x2sam"]


def _model(project_id: str, label_config: str) -> X2SAMModel:
    return current_app.extensions["x2sam-model"](project_id=project_id, label_config=label_config)


@blueprint.get("/health")
def health() -> Response:
    """Whether the server runs; answered at once, also while the model loads or works."""
    services = _services()
    engine = services.engines.ready_engine
    return jsonify(
        status="UP",
        model_class=X2SAMModel.__name__,
        state=services.engines.state,
        model=engine.name if engine else services.settings.model,
        version=services.model_version,
        device=engine.device if engine else None,
    )


@blueprint.get("/ready")
def ready() -> tuple[Response, int]:
    """Whether tasks can be answered: 200, else 503 and what stands in the way; ``warnings`` are no reason for that."""
    found = list(problems(_services(), current_app.extensions["x2sam-disk"]))
    told = list(warnings(_services()))
    return jsonify(state=_services().engines.state, problems=found, warnings=told), 503 if found else 200


@blueprint.post("/setup")
def setup() -> Response:
    """Tells the model version. Called with nearly every page of Label Studio, so nothing is done here."""
    setup_request = parse_setup(read_json(request, _SETUP_BYTES))
    logs.note(project=logs.loggable(setup_request.project_id))
    _wait_a_little(_services().engines)
    keeper = current_app.extensions.get("x2sam-webhooks")
    if keeper is not None:
        keeper.want(setup_request.project_id, request.base_url.removesuffix("/setup"))
    model = _model(setup_request.project_id, setup_request.label_config)
    return jsonify(model_version=str(model.get("model_version")))


def _wait_a_little(engines: EngineLoader) -> None:
    """For the model, so that its version is known; few at a time, since ``/health`` needs a thread too.

    :raises ModelUnavailableError: it could not be loaded.
    """
    patience = current_app.extensions["x2sam-patience"]
    seconds = _SETUP_SECONDS if engines.state == "loading" and patience.acquire(blocking=False) else 0.0
    try:
        engines.wait(seconds)
    except ModelUnavailableError:
        if engines.state == "failed":
            raise
    finally:
        if seconds:
            patience.release()


@blueprint.post("/predict")
def predict() -> Response:
    """Answers prompts of an annotator, or predicts tasks."""
    services = _services()
    with ExitStack() as stack:
        try:
            stack.enter_context(services.admission.work(request.content_length))
        except (OverloadedError, StoppingError) as refusal:
            return _refused(services, refusal)
        asked, model = _asked(services.settings.max_request_bytes)
        return _results(model.predict(asked.tasks, context=asked.context, **asked.params))


def _refused(services: Services, refusal: Exception) -> Response:
    """The reason in the field where an annotator reads answers: Label Studio keeps a status to itself.

    :raises OverloadedError, StoppingError: nobody waits at a screen, there is no such field, or too many ask.
    """
    with services.admission.aside(request.content_length) as readable:
        if not readable:
            raise refusal
        asked, model = _asked(ASIDE_BYTES)
        told = model.refuse(asked.tasks, asked.context, refusal)
    if told is None:
        raise refusal
    return _results(told)


def _results(told: list[dict[str, Any]]) -> Response:
    return Response(as_json_text({"results": told}), mimetype="application/json")


def _asked(max_bytes: int) -> tuple[PredictRequest, X2SAMModel]:
    asked = parse_predict(read_json(request, max_bytes))
    logs.note(project=logs.loggable(asked.project_id))
    return asked, _model(asked.project_id, asked.label_config)


@blueprint.post("/webhook")
def webhook() -> tuple[Response, int]:
    """Takes an event; always answered at once."""
    services = _services()
    with services.admission.reading(request.content_length):
        event = parse_webhook(read_json(request, services.settings.max_request_bytes))
        logs.note(project=logs.loggable(event.project_id))
        model = _model(event.project_id, event.label_config)
        return jsonify(status="ok", result=model.fit(event.action, event.data)), 201


@blueprint.get("/versions")
def versions() -> Response:
    """The model versions that can be used: the loaded one."""
    return jsonify(versions=[_services().model_version])


@blueprint.get("/metrics")
def metrics() -> Response:
    """Numbers for Prometheus."""
    return Response(_services().metrics.text(), mimetype="text/plain; version=0.0.4")


@blueprint.before_app_request
def begin() -> Response | None:
    """Opens the request's line in the log and asks for credentials."""
    g.log = logs.begin(request.headers.get("X-Request-ID"))
    return current_app.extensions["x2sam-gate"].refusal(request)


@blueprint.after_app_request
def finish(response: Response) -> Response:
    """Counts the request and writes its line."""
    endpoint = (request.endpoint or "unknown").removeprefix("backend.")
    record = g.get("log")
    response.headers["X-Content-Type-Options"] = "nosniff"
    metrics = _services().metrics
    metrics.requests.labels(endpoint, response.status_code).inc()
    if record is not None:
        response.headers["X-Request-ID"] = record.id
        record.fields |= {"endpoint": endpoint, "status": response.status_code}
        line = record.line()
        metrics.request_seconds.labels(endpoint).observe(line["ms"] / 1e3)
        quiet = endpoint in _ASKED_BY_MACHINES and response.status_code == 200
        log.log(logging.DEBUG if quiet else logging.INFO, "request", extra={"fields": line})
    return response


@blueprint.teardown_app_request
def forget(_error: BaseException | None) -> None:
    """The thread goes on to another request."""
    logs.end()


def as_json(error: Exception) -> tuple[Response, int]:
    """An expected error as ``{"error": sentence}`` with its status."""
    return _told(type(error).__name__, str(error), status_of(error))


def http_as_json(error: HTTPException) -> tuple[Response, int]:
    """An error of the web framework (no such path, too long) in the same form."""
    return _told(error.name.replace(" ", ""), f"{error.name}: {error.description}", error.code or 500)


def unexpected_as_json(error: Exception) -> tuple[Response, int]:
    """What nobody thought of: a reference to the log, which has the place but not the words of the error."""
    reference = uuid.uuid4().hex[:8]
    fields = {"error": type(error).__name__, "reference": reference, "at": logs.where(error)}
    log.error("unexpected error", extra={"fields": fields})
    return _told(
        "unexpected", f"Something went wrong in the ML backend; its log says more (reference {reference}).", 500
    )


def register_errors(app) -> None:
    """Every error leaves as JSON with one sentence; nothing else of it does."""
    for kind in EXPECTED:
        app.register_error_handler(kind, as_json)
    app.register_error_handler(HTTPException, http_as_json)
    app.register_error_handler(Exception, unexpected_as_json)


def _told(kind: str, sentence: str, status: int) -> tuple[Response, int]:
    _services().metrics.refused.labels(kind).inc()
    logs.note(error=kind)
    return jsonify(error=sentence), status
