"""The stand-in engine as replicas of a Ray cluster build it: it tells its process, and takes a moment for each page."""

from __future__ import annotations

import os
import time

from fake_engine import FakeEngine, FakeSession

PAGE_SECONDS = 0.05


class PlacedSession(FakeSession):
    def chat(self, question, frame=0, replaces=None):
        return str(os.getpid()), []


class PlacedEngine(FakeEngine):
    def __init__(self):
        super().__init__()
        self.on_page = lambda page: time.sleep(PAGE_SECONDS)

    def open(self, frames, key=None):
        return PlacedSession(self, frames, key)


def build(_settings):
    return PlacedEngine()
