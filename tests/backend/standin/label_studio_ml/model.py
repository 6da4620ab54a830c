"""The base class: values are kept for each project, outside of the objects, which live for one request only."""

from label_studio_sdk.label_interface import LabelInterface

VALUES = {}


class LabelStudioMLBase:
    def __init__(self, project_id=None, label_config=None):
        self.project_id = project_id or ""
        if label_config is not None:
            self.use_label_config(label_config)
        if not self.get("model_version"):
            self.set("model_version", "0.0.1")
        self.setup()

    def setup(self):
        pass

    def use_label_config(self, label_config):
        self.label_interface = LabelInterface(config=label_config)
        self.set("label_config", label_config)

    def get(self, key):
        return VALUES.get((self.project_id, key))

    def set(self, key, value):
        VALUES[self.project_id, key] = value

    def has(self, key):
        return (self.project_id, key) in VALUES

    @property
    def label_config(self):
        return self.get("label_config")

    @property
    def model_version(self):
        return self.get("model_version")
