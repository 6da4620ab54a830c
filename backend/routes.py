"""The endpoints of Label Studio's ML backend protocol: parse, call the model class, answer JSON."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, current_app, jsonify, request
from werkzeug.exceptions import HTTPException

from backend.answers import Services
from backend.auth import refusal
from backend.errors import BadRequestError, ModelUnavailableError, status_of
from backend.model import X2SAMModel
from backend.protocol import parse_predict, parse_setup, parse_webhook

blueprint = Blueprint("backend", __name__)

_SETUP_SECONDS = 2.0  # Label Studio gives /setup three


def _services() -> Services:
    return current_app.extensions["x2sam"]


def _model(project_id: str, label_config: str) -> X2SAMModel:
    return current_app.extensions["x2sam-model"](project_id=project_id, label_config=label_config)


def _body() -> Any:
    try:
        return request.get_json(force=True)
    except RecursionError as error:
        raise BadRequestError("The request body is nested too deeply.") from error


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
    """Whether the model is loaded: 200, else 503."""
    state = _services().engines.state
    return jsonify(state=state), 200 if state == "ready" else 503


@blueprint.post("/setup")
def setup() -> Response:
    """Tells the model version. Called with nearly every page of Label Studio, so nothing is done here."""
    setup_request = parse_setup(_body())
    engines = _services().engines
    try:
        engines.wait(_SETUP_SECONDS)
    except ModelUnavailableError:
        if engines.state == "failed":
            raise
    model = _model(setup_request.project_id, setup_request.label_config)
    return jsonify(model_version=str(model.get("model_version")))


@blueprint.post("/predict")
def predict() -> Response:
    """Answers prompts of an annotator, or predicts tasks."""
    asked = parse_predict(_body())
    model = _model(asked.project_id, asked.label_config)
    return jsonify(results=model.predict(asked.tasks, context=asked.context, **asked.params))


@blueprint.post("/webhook")
def webhook() -> tuple[Response, int]:
    """Takes an event; always answered at once."""
    event = parse_webhook(_body())
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
def check_credentials() -> Response | None:
    return refusal(request, _services().settings)


@blueprint.after_app_request
def count(response: Response) -> Response:
    endpoint = (request.endpoint or "unknown").removeprefix("backend.")
    _services().metrics.requests.labels(endpoint, response.status_code).inc()
    return response


def as_json(error: Exception) -> tuple[Response, int]:
    """An expected error as ``{"error": sentence}`` with its status."""
    return jsonify(error=str(error)), status_of(error)


def http_as_json(error: HTTPException) -> tuple[Response, int]:
    """An error of the web framework (no such path, no JSON, too long) in the same form."""
    return jsonify(error=f"{error.name}: {error.description}"), error.code or 500
