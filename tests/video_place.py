"""For tests with a real Label Studio: a backend that serves pages of videos, its commands, and a clip."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from workplace import ROOT

sys.path.append(str(ROOT / "tests" / "backend"))


def video_config(name: str) -> str:
    """A labeling configuration for videos, as XML."""
    return (ROOT / "label_config" / f"{name}.xml").read_text(encoding="utf-8")


@dataclass
class VideoPlace:
    """A backend with the stand-in engine, its commands, and a clip of 20 frames."""

    label_studio: Any
    url: str
    environment: dict[str, str]
    clip: Path

    def run(self, *words: object, code: int = 0, **changes: str) -> str:
        """``python -m backend video ...``."""
        command = [sys.executable, "-m", "backend", "video", *map(str, words)]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment | changes, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def project(self, name: str, **fields: Any) -> int:
        return self.label_studio.create_project(name, video_config(name), **fields)

    def tasks(self, project: int) -> list[dict[str, Any]]:
        listed = self.label_studio.api("GET", f"/api/tasks?project={project}&page_size=100")["tasks"]
        return sorted(listed, key=lambda task: task["data"]["start_frame"])


@pytest.fixture(scope="session")
def video_place(tmp_path_factory, label_studio) -> Iterator[VideoPlace]:
    from label_studio_server import ChildServer, free_port
    from video_clips import write_clip

    folder, port = tmp_path_factory.mktemp("videos"), free_port()
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.token,
        "BACKEND_PUBLIC_URL": url,
        "X2SAM_STATE_DIR": str(folder / "state"),
        "X2SAM_CACHE_DIR": str(folder / "cache"),
    }
    command = [sys.executable, str(ROOT / "tests" / "integration" / "fake_backend.py"), str(port)]
    server = ChildServer("the ML backend", command, folder / "backend.log", f"{url}/ready", environment, ROOT)
    try:
        server.wait_ready(180)
        yield VideoPlace(label_studio, url, environment, write_clip(folder / "мой клип.mp4"))
    finally:
        server.stop()
