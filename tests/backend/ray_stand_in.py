"""The stand-in engine as replicas of a Ray cluster build it: it tells its process, and takes a moment for each page."""

from __future__ import annotations

import os
import time

from fake_engine import FakeEngine, FakeSession

from x2sam.errors import DeviceError
from x2sam.vitals import EngineVitals

PAGE_SECONDS = 0.05


BREAKS = "the device breaks"
"""A prompt under which it does, as long as there is a file that ``X2SAM_TEST_BREAKS`` names: it is removed first."""


class PlacedSession(FakeSession):
    def segment(self, prompt, frame=0, priority=None, replaces=None):
        if prompt.text == BREAKS:
            self._break()
        return super().segment(prompt, frame, priority, replaces)

    def track(self, object_ids, *arguments, **options):
        for masks in super().track(object_ids, *arguments, **options):
            yield masks
            if "breaks" in object_ids and masks is not None:
                self._break()

    def _break(self):
        try:
            os.remove(os.environ["X2SAM_TEST_BREAKS"])
        except FileNotFoundError:
            return
        self.engine.vitals = EngineVitals(responsive=False, lost=True)
        raise DeviceError("the device does not work any more")

    def chat(self, question, frame=0, replaces=None):
        return str(os.getpid()), []


class PlacedEngine(FakeEngine):
    words = ("cup", "the")

    def __init__(self):
        super().__init__()
        self.on_page = lambda page: time.sleep(PAGE_SECONDS)

    def open(self, frames, key=None):
        return PlacedSession(self, frames, key)


def build(_settings):
    return PlacedEngine()
