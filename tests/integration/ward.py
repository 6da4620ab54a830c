"""Where the doctor is tested: a real Label Studio, ML backends in this process, and what it reports."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from label_studio_server import LabelStudioServer, free_port
from typer.testing import CliRunner
from werkzeug.serving import make_server

from backend.app import close_app, create_app
from backend.cli import app
from backend.settings import Settings
from x2sam.errors import PromptError
from x2sam.structures import Mask

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "backend"))

from fake_engine import FakeEngine, FakeSession  # noqa: E402

CLICKS = (ROOT / "label_config" / "image_clicks.xml").read_text(encoding="utf-8")
TEXT = (ROOT / "label_config" / "image_text.xml").read_text(encoding="utf-8")
UPRIGHT = "/data/local-files/?d=made/upright.png"
LOGIN = {"basic_auth_user": "label-studio", "basic_auth_pass": "first-secret"}
QUIET = {"ok", "note"}


class Noise(FakeSession):
    """Every pixel its own matter."""

    def segment(self, prompt, frame=0, priority=None, replaces=None) -> list[Mask]:
        size = self.frames[frame].shape[:2]
        return [Mask(np.random.default_rng(0).random(size) > 0.5, 0.5)]


class NoisyEngine(FakeEngine):
    def open(self, frames, key=None) -> Noise:
        return Noise(self, frames, key)


class BrokenEngine(FakeEngine):
    def __init__(self):
        super().__init__()
        self.raises = PromptError("The stand-in refuses every prompt; ask another.")


class Ward:
    """Label Studio, backends in this process, and the doctor."""

    def __init__(self, label_studio: LabelStudioServer, folder: Path):
        self.label_studio, self.folder = label_studio, folder

    @contextmanager
    def backend(self, engine=FakeEngine, port: int = 0, **changes: Any) -> Iterator[str]:
        """A running ML backend; its address."""
        own = {"media_cache_dir": str(self.folder / f"cache{free_port()}"), "state_dir": str(self.folder / "state")}
        address = {"label_studio_url": self.label_studio.url, "label_studio_api_key": self.label_studio.token}
        settings = Settings(**(own | address | {"warm_tasks": 0} | changes))
        application = create_app(settings, engine)
        with serving(make_server("127.0.0.1", port, application, threaded=True)) as url:
            yield url
        close_app(application)

    def project(self, config: str = CLICKS, picture: str | None = UPRIGHT, **fields: Any) -> int:
        """A project with one task, or none."""
        number = self.label_studio.create_project("doctor", config, **fields)
        if picture is not None:
            self.label_studio.serve_folder(number, self.label_studio.files_root / "made")
            self.label_studio.import_tasks(number, [{"image": picture}])
        return number

    def attach(self, project: int, url: str, **fields: Any) -> int:
        """A further row in the project's settings."""
        body = {"project": project, "url": url, "title": "x2sam", "is_interactive": True, **fields}
        return self.label_studio.api("POST", "/api/ml", body)["id"]

    def examine(self, *words: object, server: LabelStudioServer | None = None, **environment: str) -> Report:
        """The doctor's report on a project, or on what the words say."""
        server = server or self.label_studio
        given = {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": server.token, **environment}
        others = {name: None for name in ("BASIC_AUTH_USER", "BASIC_AUTH_PASS", "X2SAM_MEDIA_HOSTS")}
        others["X2SAM_STATE_DIR"] = str(self.folder / "state")
        file = self.folder / "report.json"
        file.unlink(missing_ok=True)
        line = ["doctor", *map(str, words), "--json", str(file)]
        outcome = CliRunner().invoke(app, line, env=others | given)
        assert outcome.exit_code in (0, 1), (outcome.output, outcome.exception)
        content = file.read_text()
        kept = self.folder / "state" / "webhook-secret"
        hidden = kept.read_text().strip() if kept.is_file() else None
        passwords = environment.get("BASIC_AUTH_PASS"), LOGIN["basic_auth_pass"]
        for secret in filter(None, (given["LABEL_STUDIO_API_KEY"], hidden, *passwords)):
            assert secret not in outcome.output and secret not in content
        assert "Traceback" not in outcome.output
        return Report(json.loads(content), outcome)


class Report:
    def __init__(self, content: dict[str, Any], outcome: Any):
        self.checks = {check["name"]: check for check in content["checks"]}
        self.healthy, self.output, self.exit_code = content["healthy"], outcome.output, outcome.exit_code

    def mark(self, name: str) -> str:
        return self.checks[name]["mark"]

    def failed(self, name: str, *parts: str) -> None:
        """This check failed for this reason, with this mend, and the doctor's exit code says so."""
        told = f"{self.checks[name]['text']} | {self.checks[name]['mend']}"
        assert self.mark(name) == "failed", (self.checks[name], self.output)
        assert all(part in told for part in parts), told
        assert self.checks[name]["mend"] and self.exit_code == 1 and not self.healthy

    def failures(self) -> set[str]:
        return {name for name in self.checks if self.mark(name) == "failed"}


@contextmanager
def serving(server: Any) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def plain_server(status: int, headers: dict[str, str] | None = None, port: int = 0) -> Iterator[str]:
    """A server that gives the same answer to everything."""

    def answer(_: str) -> tuple[int, dict[str, str], bytes]:
        return status, headers or {}, b"<html>hello</html>"

    with _answering(answer, port) as url:
        yield url


@contextmanager
def odd_server(answers: dict[str, Any]) -> Iterator[str]:
    """A server of somebody else: by path, what it answers in JSON, the status of an error, or None: it hangs up.
    ``answers`` may change while it runs."""

    def answer(path: str) -> tuple[int, dict[str, str], bytes] | None:
        found = next((answers[known] for known in answers if path.startswith(known)), 404)
        if found is None:
            return None
        status, body = (found, {}) if isinstance(found, int) else (200, found)
        return status, {"Content-Type": "application/json"}, json.dumps(body).encode()

    with _answering(answer) as url:
        yield url


@contextmanager
def _answering(answer: Callable[[str], tuple[int, dict[str, str], bytes] | None], port: int = 0) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            given = answer(self.path)
            if given is None:
                return
            status, headers, body = given
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", port), Handler)) as url:
        yield url
