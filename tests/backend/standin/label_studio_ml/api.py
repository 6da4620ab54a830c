"""The server: it calls a model class the way 2.x does."""

from flask import Flask, jsonify, request

from .model import LabelStudioMLBase

TRAIN_EVENTS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATION_DELETED", "START_TRAINING")


def init_app(model_class, basic_auth_user=None, basic_auth_pass=None):
    if not issubclass(model_class, LabelStudioMLBase):
        raise ValueError("not a subclass of LabelStudioMLBase")
    app = Flask("standin")

    @app.post("/predict")
    def predict():
        body = request.json
        params = body.get("params", {})
        context = params.pop("context", {})
        model = model_class(project_id=str(body["project"]).split(".")[0], label_config=body["label_config"])
        return jsonify(results=model.predict(body["tasks"], context=context, **params))

    @app.post("/setup")
    def setup():
        body = request.json
        model = model_class(project_id=body["project"].split(".")[0], label_config=body["schema"])
        return jsonify(model_version=model.get("model_version"))

    @app.post("/webhook")
    def webhook():
        body = request.json
        event = body.pop("action")
        if event not in TRAIN_EVENTS:
            return jsonify(status="Unknown event")
        model = model_class(str(body["project"]["id"]), label_config=body["project"]["label_config"])
        return jsonify(result=model.fit(event, body), status="ok"), 201

    @app.get("/health")
    def health():
        return jsonify(status="UP", model_class=model_class.__name__)

    return app
