"""Fixtures of the tests with a real Label Studio: one server for the whole run, and our backend with two engines."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

ROOT = Path(__file__).resolve().parents[1]
NANO = ROOT / "x2sam" / "checkpoints" / "nano" / "model.safetensors"
ENGINES = [
    "fake",
    pytest.param("nano", marks=pytest.mark.skipif(not NANO.is_file(), reason="x2sam/checkpoints/nano is not there")),
]

sys.path.insert(0, str(ROOT / "scripts"))


@dataclass
class Workplace:
    """Label Studio with one backend; a project for each labeling configuration, made when it is asked for.
    ``environment`` is that of the backend, for commands that work with it."""

    label_studio: Any
    engine: str
    url: str
    environment: dict[str, str] = field(default_factory=dict)
    predicts: bool = True
    projects: dict[str, tuple[int, int]] = field(default_factory=dict)

    def project(self, config: str) -> tuple[int, int]:
        """Ids of the project and its backend. Where ``predicts``, opening a task there asks for a prediction."""
        if config not in self.projects:
            xml = (ROOT / "label_config" / f"{config}.xml").read_text(encoding="utf-8")
            title = f"{config} {self.engine}"
            project = self.label_studio.create_project(title, xml, show_collab_predictions=self.predicts)
            for folder in sorted(path for path in self.label_studio.files_root.iterdir() if path.is_dir()):
                self.label_studio.serve_folder(project, folder)
            self.projects[config] = project, self.label_studio.attach_backend(project, self.url)
        return self.projects[config]

    def task(self, config: str, **data: Any) -> int:
        project, _ = self.project(config)
        return self.label_studio.import_tasks(project, [data])[0]

    def ask(self, config: str, task: int, *prompts: dict[str, Any]) -> list[dict[str, Any]]:
        """The result items for prompts on a task."""
        _, backend = self.project(config)
        return self.label_studio.ask(backend, task, *prompts)["result"]


@dataclass(frozen=True)
class Login:
    """Somebody who may sign in, and whose token the API takes."""

    username: str
    password: str
    token: str


@contextmanager
def signed_in(url: str, username: str, password: str) -> Iterator[requests.Session]:
    """The cookies of somebody who has signed in at Label Studio's own page, as a browser has them."""
    page = f"{url}/user/login/"
    with requests.Session() as browser:
        browser.get(page, timeout=60)
        form = {"email": username, "password": password, "csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        browser.post(page, data=form, headers={"Referer": page}, timeout=60).raise_for_status()
        browser.headers.update({"X-CSRFToken": browser.cookies["csrftoken"], "Referer": url})
        yield browser


@pytest.fixture(scope="session")
def second_login(label_studio) -> Login:
    """A second annotator, who came by the invitation link."""
    username, password = f"ben-{secrets.token_hex(4)}@example.com", "ben-Secret-1"
    with requests.Session() as browser:
        link = label_studio.api("GET", "/api/invite")["invite_url"]
        page = label_studio.url + link if link.startswith("/") else link
        browser.get(page, timeout=60)
        form = {"email": username, "password": password, "csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        answer = browser.post(page, data=form, headers={"Referer": page}, timeout=60)
        assert answer.status_code < 400
        token = browser.get(f"{label_studio.url}/api/current-user/token", timeout=60).json()["token"]
    return Login(username, password, token)


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """What Label Studio serves: the demo's media, and a generated picture in three forms."""
    import demo
    from PIL import Image, ImageDraw

    root = tmp_path_factory.mktemp("files")
    demo.prepare_files(root)
    made = root / "made"
    made.mkdir()
    picture = Image.new("RGB", (320, 240), (40, 90, 40))
    ImageDraw.Draw(picture).ellipse((40, 60, 160, 180), fill=(210, 60, 40))
    picture.save(made / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(made / "rotated.jpg", quality=95, exif=exif)
    for number in range(3):
        page = Image.new("RGB", (320, 240), (40, 90, 40))
        ImageDraw.Draw(page).ellipse((40 + 40 * number, 60, 160 + 40 * number, 180), fill=(210, 60, 40))
        page.save(made / f"page{number}.jpg")
    return root


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory, files) -> Iterator[Any]:
    from label_studio_server import LabelStudioServer

    python = Path(os.environ.get("LABEL_STUDIO_PYTHON", ROOT / ".venv-ls" / "bin" / "python"))
    server = LabelStudioServer(python.absolute(), tmp_path_factory.mktemp("label-studio"), files)
    server.start()
    try:
        server.wait_ready(480)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def workplaces(tmp_path_factory, label_studio) -> Iterator[Callable[[str], Workplace]]:
    """The name of an engine to the workplace with it; a backend is started when it is first asked for."""
    from label_studio_server import ChildServer, free_port

    servers, made = [], {}

    def workplace(engine: str) -> Workplace:
        if engine not in made:
            port, folder = free_port(), tmp_path_factory.mktemp(f"backend-{engine}")
            fake = [str(ROOT / "tests" / "integration" / "fake_backend.py"), str(port)]
            real = ["-m", "backend", "serve", "--port", str(port), "--model", engine]
            url = f"http://127.0.0.1:{port}"
            environment = os.environ | {
                "LABEL_STUDIO_URL": label_studio.url,
                "LABEL_STUDIO_API_KEY": label_studio.token,
                "BACKEND_PUBLIC_URL": url,
                "X2SAM_CACHE_DIR": str(folder / "cache"),
                "X2SAM_STATE_DIR": str(folder / "state"),
            }
            command = [sys.executable, *(fake if engine == "fake" else real)]
            log = folder / "backend.log"
            servers.append(ChildServer("the ML backend", command, log, f"{url}/ready", environment, ROOT))
            servers[-1].wait_ready(180)
            made[engine] = Workplace(label_studio, engine, url, environment)
        return made[engine]

    yield workplace
    for server in servers:
        server.stop()
