"""Images, compose file and dashboard: checked by linters and against what they are about, and rehearsed in small."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
sys.path[:0] = [str(DOCKER), str(ROOT / "tests" / "backend")]

import pin_bases  # noqa: E402
import rehearse  # noqa: E402

OWN = ("label-studio", "backend-cpu", "backend-gpu")
MANIFEST = b'{"schemaVersion": 2, "manifests": []}'


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load((DOCKER / "docker-compose.yml").read_text(encoding="utf-8"))


def lint(*command: str | Path) -> subprocess.CompletedProcess:
    tool = Path(sys.executable).with_name(str(command[0]))
    return subprocess.run([tool, *command[1:]], capture_output=True, text=True, cwd=ROOT)


def test_linters_find_nothing_and_would(tmp_path):
    for file in sorted(DOCKER.glob("*Dockerfile")):
        done = lint("hadolint", file)
        assert done.returncode == 0, done.stdout
    assert lint("compose-lint", DOCKER / "docker-compose.yml").returncode == 0
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python\nRUN apt-get install gcc\n")
    assert {"DL3006", "DL3008"} <= set(re.findall(r"DL\d+", lint("hadolint", bad).stdout))


def stages(name: str) -> dict[str, list[tuple[str, str]]]:
    found = rehearse.Rehearsal(DOCKER / name, Path(), {}, [])._split()
    return {stage: [("FROM", base), *instructions] for stage, base, instructions in found}


@pytest.mark.parametrize(
    "file, finals", [("Dockerfile", ("cpu", "cuda")), ("label-studio.Dockerfile", ("label-studio",))]
)
def test_the_last_stages(file, finals):
    known = stages(file)
    assert re.search(r"^ARG BASE=python:3\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?$", (DOCKER / file).read_text(), re.M)
    for final in finals:
        below = dict(known[final])["FROM"]
        steps = [*known.get(below, ()), *known[final]]
        runs = [value for kind, value in steps if kind == "RUN"]
        assert runs[0] == "! command -v cc && ! command -v gcc && ! command -v clang", "the build fails on a compiler"
        assert not [run for run in runs if re.search(r"\bapt|\bpip\b", run)], "installed in stages that are left behind"
        last = {kind: value for kind, value in steps if kind != "RUN"}
        assert last["USER"].split(":")[0].isdigit() and last["USER"] != "0:0" and "HEALTHCHECK" in last
        copied = [value for kind, value in steps if kind == "COPY" and value.startswith("--from=packages")]
        assert len(copied) == 1


def test_packages_of_the_image_are_those_that_are_needed():
    """The sed of the Dockerfile, on the requirements of today."""
    (cut,) = re.findall(r"sed ('[^']+')", (DOCKER / "Dockerfile").read_text())
    kept = subprocess.check_output(f"sed {cut} requirements.txt", shell=True, cwd=ROOT, text=True)
    installed = set(re.findall(r"^([\w-]+)==", kept, re.M))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {Requirement(line).name for line in project["dependencies"]} <= installed
    assert not installed & {Requirement(line).name for line in project["optional-dependencies"]["test"]}


def test_own_services_are_locked_down_and_two_profiles_start_one_backend(compose):
    services = compose["services"]
    for name in OWN:
        service = services[name]
        assert service["read_only"] is True and service["tmpfs"] == ["/tmp"] and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    for profile, kind in (("cpu", "cpu"), ("gpu", "cuda")):
        (started,) = [name for name, one in services.items() if profile in one.get("profiles", ())]
        assert services[started]["build"]["target"] == kind
        kept = {volume.split(":")[1] for volume in services[started]["volumes"]}
        assert kept == {"/data/models", "/data/state", "/data/media"}
    assert "profiles" not in services["label-studio"]
    assert all(":" in one["image"] and not one["image"].endswith(":latest") for one in services.values())


def test_every_variable_has_a_default_or_an_example(compose):
    text = (DOCKER / "docker-compose.yml").read_text(encoding="utf-8")
    offered = set(re.findall(r"^#? ?(\w+)=", (DOCKER / "example.env").read_text(encoding="utf-8"), re.M))
    needed = set(re.findall(r"\$\{(\w+):\?", text)) | {one["environment"] for one in compose["secrets"].values()}
    assert needed <= offered
    assert offered <= set(re.findall(r"\w+", text)), "nothing is offered that the file does not read"


def test_label_studio_refuses_all_private_addresses_but_those_of_the_containers(compose):
    """What its own list has, read from its source, is covered, without the network of the containers."""
    found = sorted((ROOT / ".venv-ls").glob("lib/python3*/site-packages/label_studio/core/utils/io.py"))
    if not found:
        pytest.skip("Label Studio is not installed (.venv-ls)")
    own = next(
        ast.literal_eval(node.value)
        for node in ast.walk(ast.parse(found[0].read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "default_banned_subnets"
    )
    environment = compose["services"]["label-studio"]["environment"]
    assert environment["LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS"] == "false"
    value = environment["LABEL_STUDIO_USER_ADDITIONAL_BANNED_SUBNETS"]
    (listed,) = re.fullmatch(r"\$\{LABEL_STUDIO_BANNED_SUBNETS:-(.*)\}", value).groups()
    banned = [ipaddress.ip_network(one) for one in listed.split(",")]  # Label Studio does not strip spaces either
    (config,) = compose["networks"]["x2sam"]["ipam"]["config"]
    ours = ipaddress.ip_network(config["subnet"])
    assert not [one for one in banned if one.version == ours.version and one.overlaps(ours)]
    for network in map(ipaddress.ip_network, own):
        parts = network.address_exclude(ours) if network.version == 4 and ours.subnet_of(network) else [network]
        for part in parts:
            assert any(part.version == one.version and part.subnet_of(one) for one in banned), part


def test_docker_compose_itself_reads_it(tmp_path):
    command = ["docker", "compose"]
    if not shutil.which("docker") or subprocess.run([*command, "version"], capture_output=True).returncode:
        pytest.skip("there is no docker compose on this machine")
    filled = re.sub(r"^(\w+)=$", r"\1=filled", (DOCKER / "example.env").read_text(), flags=re.M)
    (tmp_path / "env").write_text(filled)
    command += ["-f", str(DOCKER / "docker-compose.yml"), "--env-file", str(tmp_path / "env")]
    for profile in ("cpu", "gpu"):
        subprocess.run([*command, "--profile", profile, "--profile", "monitoring", "config", "--quiet"], check=True)


def test_every_number_of_the_dashboard_is_one_that_the_server_tells(tmp_path):
    from fake_engine import FakeEngine

    from backend.app import close_app, create_app
    from backend.settings import Settings
    from x2sam.vitals import EngineVitals, QueueVitals

    engine = FakeEngine()
    engine.vitals = EngineVitals({"click": QueueVitals()}, memory={"allocated": 1})
    chosen = Settings(media_cache_dir=str(tmp_path / "media"), state_dir=str(tmp_path / "state"), warm_tasks=0)
    app = create_app(chosen, lambda: engine)
    try:
        app.extensions["x2sam"].engines.wait(5)
        text = app.test_client().get("/metrics").text
    finally:
        close_app(app)
    told = set()
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M):
        told |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else {name}
    dashboard = json.loads((DOCKER / "grafana" / "dashboards" / "x2sam.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    names = {name for expression in asked for name in re.findall(r"\b(?:x2sam|process)_\w+", expression)}
    assert len(names) > 25 and not names - told, sorted(names - told)
    source = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    assert {target["datasource"]["uid"] for p in dashboard["panels"] for target in p["targets"]} == {source["uid"]}


@contextlib.contextmanager
def registry(announced: str | None = None):
    """Tells MANIFEST to those who bring a token, as public registries do."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            host = f"http://127.0.0.1:{self.server.server_port}"
            if self.path.startswith("/token?"):
                return self._send(200, b'{"token": "t"}')
            if self.headers["Authorization"] != "Bearer t":
                challenge = f'Bearer realm="{host}/token",service="s",scope="repository:a/b:pull"'
                return self._send(401, b"", {"WWW-Authenticate": challenge})
            if self.path != "/v2/a/b/manifests/1.2":
                return self._send(404, b"")
            return self._send(200, MANIFEST, {"Docker-Content-Digest": announced} if announced else {})

        def _send(self, status, body, headers=()):
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_digests_come_from_what_a_registry_sent(tmp_path, capsys):
    digest = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()
    with registry() as host:
        (tmp_path / "Dockerfile").write_text(f"ARG BASE={host}/a/b:1.2\nFROM ${{BASE}}\n")
        (tmp_path / "compose.yml").write_text(
            f"services:\n  a:\n    image: {host}/a/b:1.2@sha256:{'0' * 64}\n  b:\n    image: {host}/a/b:9\n"
            "  c:\n    image: x2sam-backend:cpu\n"
        )
        assert not pin_bases.pin(tmp_path, [], write=False)
        assert digest not in (tmp_path / "Dockerfile").read_text()
        assert not pin_bases.pin(tmp_path, [], write=True), "one tag is unknown there"
        assert (tmp_path / "Dockerfile").read_text() == f"ARG BASE={host}/a/b:1.2@{digest}\nFROM ${{BASE}}\n"
        written = (tmp_path / "compose.yml").read_text()
        assert f"{host}/a/b:1.2@{digest}\n" in written and f"{host}/a/b:9\n" in written and "backend:cpu\n" in written
        assert f"{host}/a/b:9  left as it is" in capsys.readouterr().err
    before = (tmp_path / "Dockerfile").read_text()
    assert not pin_bases.pin(tmp_path, [], write=True), "nobody answers any more"
    assert (tmp_path / "Dockerfile").read_text() == before


def test_a_registry_that_announces_something_else_is_not_believed():
    with registry(announced="sha256:" + "1" * 64) as host, pytest.raises(pin_bases.RegistryError, match="announces"):
        pin_bases.digest_of(f"{host}/a/b", "1.2")


SMALL = """
ARG BASE=nobody/asks:1
FROM ${BASE} AS packages
ARG WORD=none
RUN mkdir /opt/made && echo "${WORD}" > /opt/made/word
FROM ${BASE} AS last
RUN ! command -v cc
RUN useradd --uid 10003 --user-group small && install --directory --owner=small --group=small /data
COPY LICENSE ./
COPY --from=packages /opt/made /opt/made
USER 10003:10003
ENV WHERE=/data/here
VOLUME ["/data"]
HEALTHCHECK CMD ["test", "-s", "/data/here"]
CMD ["/bin/sh", "-c", "trap 'exit 0' TERM; id -u > $WHERE; cat /opt/made/word >> $WHERE; while :; do sleep 0.1; done"]
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or bool(subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode),
    reason="rehearsing takes root and leave to make namespaces",
)
def test_steps_are_run_in_a_root_of_their_own_and_served_read_only(tmp_path):
    file = tmp_path / "Dockerfile"
    file.with_name("Dockerfile.dockerignore").write_text("*\n!LICENSE\n")
    file.write_text(SMALL)
    (tmp_path / "roots").mkdir()
    tried = rehearse.Rehearsal(file, tmp_path / "roots", {"WORD": "given"}, [])
    stage = tried.build("last")
    tried.serve(stage, {})
    assert (stage.root / "data" / "here").read_text().split() == ["10003", "given"]
    assert (stage.root / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    outcomes = {one["step"]: one["outcome"] for one in tried.steps}
    assert outcomes.pop("RUN ! command -v cc").startswith("not run: ") and set(outcomes.values()) == {"run"}
    assert "small" not in Path("/etc/passwd").read_text()

    file.write_text(SMALL.replace("mkdir /opt/made", "mkdir /nowhere/made"))
    (tmp_path / "more").mkdir()
    with pytest.raises(rehearse.RehearsalError, match="nowhere"):
        rehearse.Rehearsal(file, tmp_path / "more", {}, []).build("last")
    file.write_text(SMALL.replace("USER 10003:10003\n", "RUN mkdir /app && chmod 777 /app\n"))
    (tmp_path / "third").mkdir()
    tried = rehearse.Rehearsal(file, tmp_path / "third", {}, [])
    tried.serve(tried.build("last"), {})  # even root can write to no place but the volumes
    file.write_text(SMALL.replace('["test", "-s", "/data/here"]', '["/bin/sh", "-c", "echo not yet; false"]'))
    (tmp_path / "fourth").mkdir()
    tried = rehearse.Rehearsal(file, tmp_path / "fourth", {}, [])
    with pytest.raises(rehearse.RehearsalError, match="within 0 s: not yet"):
        tried.serve(tried.build("last"), {}, patience=0)
