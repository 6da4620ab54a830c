"""Runs the steps of a Dockerfile where there is no container engine, and starts what came out of them.

    sudo python docker/rehearse.py docker/Dockerfile --target cpu --build-arg TORCH_INDEX= --serve [--json FILE]

Every stage gets a root directory of its own in which its COPY steps are done and its RUN steps are run, by chroot in a
mount namespace. In place of the base image, whose files are not here, stand this machine's /usr and Python, read-only;
so a step that looks at what the base has is not run, and the report says so. ``--serve`` starts the image's command as
its user, with the root read-only, /tmp empty and the volumes writable, waits until the health check passes, and stops
it. ```--env`` sets variables for that; ``--mount`` shows a folder of this machine (say, of wheels) to all steps. Exit
code 1: a step failed; 2: this machine does not allow it (it needs root and Linux).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

CONTEXT = Path(__file__).resolve().parents[1]
ENTER = Path(__file__).resolve().parent / "enter_root.sh"
LOOKS_AT_THE_BASE = "! command -v"
CANNOT_LOOK = "it looks at what the base image has, which is not here"
FROM_THIS_MACHINE = (
    "ssl", "resolv.conf", "hosts", "nsswitch.conf", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "login.defs", "xdg",
    "pip.conf", "passwd", "group", "shadow", "gshadow", "alternatives", "ca-certificates", "localtime", "mime.types",
)  # fmt: skip
PYTHON = Path(sys.base_prefix).resolve()
PATH = f"{PYTHON}/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
HEALTH_SECONDS = 240.0
STOP_SECONDS = 40.0


class RehearsalError(Exception):
    """A step failed, or an instruction is not known here."""


@dataclass
class Stage:
    """A root directory and what its instructions have set so far."""

    name: str
    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    volumes: list[str] = field(default_factory=list)
    entry: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    stop: int = signal.SIGTERM

    def path(self, inside: str) -> Path:
        """Where a path of the image is on this machine."""
        return self.root / os.path.normpath(os.path.join(self.workdir, inside)).lstrip("/")

    def filled(self, text: str) -> str:
        """``$NAME`` and ``${NAME}`` replaced, as Dockerfiles do outside of RUN."""
        known = self.arguments | {"PATH": PATH} | self.environment
        return re.sub(r"\$\{?(\w+)\}?", lambda match: known.get(match[1], ""), text)


class Rehearsal:
    """``offered``: build arguments from outside; ``mounts``: folders of this machine that all steps see."""

    def __init__(self, file: Path, folder: Path, offered: dict[str, str], mounts: list[Path]):
        self._folder, self._offered, self._mounts = folder, offered, mounts
        self._file, self.stages, self.steps = file, {}, []
        ignored = file.with_name(file.name + ".dockerignore").read_text(encoding="utf-8").split()
        self._allowed = {line[1:] for line in ignored if line.startswith("!")}

    def build(self, target: str) -> Stage:
        """The stage ``target`` with those that it needs.

        :raises RehearsalError: a step failed.
        """
        wanted, stage = self._needed(target), None
        for name, base, instructions in self._split():
            if name not in wanted:
                continue
            stage = self._begun(name, base)
            for kind, value in instructions:
                getattr(self, f"_{kind.lower()}", self._unknown)(stage, value)
        return stage

    def _split(self) -> list[tuple[str, str, list[tuple[str, str]]]]:
        """Name, base and instructions of each stage."""
        parser = DockerfileParser(fileobj=io.BytesIO(self._file.read_bytes()))
        found: list[tuple[str, str, list[tuple[str, str]]]] = []
        for entry in parser.structure:
            kind, value = entry["instruction"], entry["value"]
            if kind == "FROM":
                base, *rest = value.split()
                found.append((rest[-1] if rest else "", base, []))
            elif kind != "COMMENT" and found:
                found[-1][2].append((kind, value))
        return found

    def _needed(self, target: str) -> set[str]:
        needs = {}
        for name, base, instructions in self._split():
            copied = {m[1] for kind, v in instructions if kind == "COPY" and (m := re.match(r"--from=(\S+)", v))}
            needs[name] = {base, *copied}
        if target not in needs:
            raise RehearsalError(f"{self._file.name} has no stage {target!r}; it has {', '.join(needs)}")
        wanted, waiting = set(), [target]
        while waiting:
            name = waiting.pop()
            if name in needs and name not in wanted:
                wanted.add(name)
                waiting += needs[name]
        return wanted

    def _begun(self, name: str, base: str) -> Stage:
        root = self._folder / name
        if base in self.stages:
            below = self.stages[base]
            subprocess.run(["cp", "-a", "--reflink=auto", str(below.root), str(root)], check=True)
            stage = Stage(**{**below.__dict__, "name": name, "root": root, "arguments": {}})
            stage.environment, stage.volumes = dict(below.environment), list(below.volumes)
        else:
            stage = Stage(name, root)
            for inside in ("proc", "dev", "usr", "tmp", "etc", "home", "root", "run", "var/tmp", "var/mail", "opt"):
                (root / inside).mkdir(parents=True)
            (root / "tmp").chmod(0o1777)
            for inside in ("bin", "sbin", "lib", "lib64"):
                if Path("/", inside).exists():
                    (root / inside).symlink_to(f"usr/{inside}")
            for inside in FROM_THIS_MACHINE:
                if Path("/etc", inside).exists():
                    subprocess.run(["cp", "-aL", f"/etc/{inside}", str(root / "etc")], check=True, stderr=-3)
        self.stages[name] = stage
        return stage

    def _unknown(self, stage: Stage, value: str) -> None:
        raise RehearsalError(f"stage {stage.name}: an instruction that is not known here, with {value!r}")

    def _arg(self, stage: Stage, value: str) -> None:
        name, _, default = value.partition("=")
        stage.arguments[name] = self._offered.get(name, default)

    def _env(self, stage: Stage, value: str) -> None:
        for pair in shlex.split(value):
            name, _, text = pair.partition("=")
            stage.environment[name] = stage.filled(text)

    def _workdir(self, stage: Stage, value: str) -> None:
        stage.workdir = value
        stage.path(".").mkdir(parents=True, exist_ok=True)

    def _user(self, stage: Stage, value: str) -> None:
        stage.user = value

    def _volume(self, stage: Stage, value: str) -> None:
        stage.volumes += json.loads(value)

    def _entrypoint(self, stage: Stage, value: str) -> None:
        stage.entry = json.loads(value)

    def _cmd(self, stage: Stage, value: str) -> None:
        stage.command = json.loads(value)

    def _healthcheck(self, stage: Stage, value: str) -> None:
        stage.health = json.loads(value[value.index("CMD") + 3 :])

    def _stopsignal(self, stage: Stage, value: str) -> None:
        stage.stop = signal.Signals[value]

    def _expose(self, stage: Stage, value: str) -> None:
        """Tells people only."""

    def _copy(self, stage: Stage, value: str) -> None:
        *sources, target = value.split()
        top = CONTEXT
        if sources[0].startswith("--from="):
            top = self.stages[sources.pop(0).removeprefix("--from=")].root
        elif refused := [one for one in sources if one.split("/")[0] not in self._allowed]:
            raise RehearsalError(f"COPY {refused}: not let through by {self._file.name}.dockerignore")
        place = stage.path(target)
        for source in sources:
            found = top / source.lstrip("/")
            if found.is_dir():
                ignore = _junk if top == CONTEXT else None
                shutil.copytree(found, place, symlinks=True, dirs_exist_ok=True, ignore=ignore)
            else:
                into = place / found.name if target.endswith(("/", ".")) else place
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(found, into)
        self._tell(stage, f"COPY {value}", "run")

    def _run(self, stage: Stage, value: str) -> None:
        if value.startswith(LOOKS_AT_THE_BASE):
            self._tell(stage, f"RUN {value}", f"not run: {CANNOT_LOOK}")
            return
        begun = time.monotonic()
        done = self.enter(stage, ["/bin/sh", "-c", value], stage.arguments | _pip_settings())
        output = done.communicate()[0].decode(errors="replace")
        if done.returncode:
            self._tell(stage, f"RUN {value}", f"failed with {done.returncode}")
            raise RehearsalError(f"stage {stage.name}: RUN {value}\n" + "\n".join(output.splitlines()[-25:]))
        self._tell(stage, f"RUN {value}", "run", time.monotonic() - begun)

    def enter(
        self, stage: Stage, command: list[str], more: dict[str, str], sealed: bool = False, shown: bool = False
    ) -> subprocess.Popen:
        """Starts a command in a stage's root; ``sealed``: as it will be served; ``shown``: what it says is not kept."""
        seen = [str(path) for path in (PYTHON, *self._mounts) if not path.is_relative_to("/usr")]
        environment = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"} | stage.environment | more
        environment |= {
            "REHEARSAL_ROOT": str(stage.root), "REHEARSAL_USER": stage.user, "REHEARSAL_DIR": stage.workdir,
            "REHEARSAL_SHOWN": "\n".join(seen), "REHEARSAL_VOLUMES": "\n".join(stage.volumes) if sealed else "",
            "REHEARSAL_SEALED": "1" if sealed else "",
        }  # fmt: skip
        unshared = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", str(ENTER), *command]
        out = {} if shown else {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(unshared, env=environment, stdin=subprocess.DEVNULL, **out)

    def serve(self, stage: Stage, environment: dict[str, str], patience: float = HEALTH_SECONDS) -> None:
        """Starts the image's command and stops it once its health check passes, within ``patience`` seconds.

        :raises RehearsalError: it ended, its health check does not pass, or it could write where it must not.
        """
        for name in ("/written", "/app/written", "/opt/written"):
            tried = self.enter(stage, ["/bin/sh", "-c", f"echo > {name}"], {}, sealed=True)
            tried.communicate()
            if tried.returncode == 0:
                raise RehearsalError(f"{name} could be written")
        begun = time.monotonic()
        server = self.enter(stage, stage.entry + stage.command, environment, sealed=True, shown=True)
        try:
            while said := self._ill(stage, environment):
                if server.poll() is not None:
                    raise RehearsalError(f"the server ended with {server.returncode}")
                if time.monotonic() - begun > patience:
                    raise RehearsalError(f"the health check did not pass within {patience:g} s: {said}")
                time.sleep(2)
            self._tell(stage, f"HEALTHCHECK {shlex.join(stage.health)}", "run", time.monotonic() - begun)
        except BaseException:
            _stop(server, signal.SIGKILL)
            raise
        _stop(server, stage.stop)
        command = shlex.join(stage.entry + stage.command)
        self._tell(stage, f"CMD {command} as {stage.user}, root read-only", "run")

    def _ill(self, stage: Stage, environment: dict[str, str]) -> str:
        """The last words of a health check that does not pass; empty where it does."""
        check = self.enter(stage, stage.health, environment, sealed=True)
        said = check.communicate()[0].decode(errors="replace").split("\n")
        return next((line for line in reversed(said) if line), "it said nothing") if check.returncode else ""

    def _tell(self, stage: Stage, step: str, outcome: str, seconds: float = 0.0) -> None:
        self.steps.append({"stage": stage.name, "step": step, "outcome": outcome, "seconds": round(seconds, 1)})
        print(f"{stage.name:<14} {outcome:<8} {seconds:>6.1f} s  {step}", flush=True)


def _junk(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


def _pip_settings() -> dict[str, str]:
    """Where this machine's pip looks for packages, and through what it gets there."""
    passed = ("http_proxy", "https_proxy", "no_proxy", "ssl_cert_file", "requests_ca_bundle")
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.lower() in passed}


def _stop(server: subprocess.Popen, how: int) -> None:
    """Tells the server inside the namespace to end, as an engine does, and waits for it."""
    inner = subprocess.run(["pgrep", "-P", str(server.pid)], capture_output=True, text=True).stdout.split()
    for pid in inner:
        os.kill(int(pid), how)
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        for pid in inner:  # with the first process of the namespace all of them end
            os.kill(int(pid), signal.SIGKILL)
        server.wait()
        raise RehearsalError("the server did not end when told to") from None


def _pairs(given: list[str]) -> dict[str, str]:
    return dict(one.partition("=")[::2] for one in given)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--target", required=True)
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--mount", action="append", default=[], type=Path)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--patience", type=float, default=HEALTH_SECONDS, help="seconds until the health check passes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if sys.platform != "linux" or os.geteuid() or subprocess.run(["unshare", "--mount", "true"]).returncode:
        print("not rehearsed: it takes root on Linux, and leave to make mount namespaces", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        Path(folder).chmod(0o755)
        wheels = [Path(one) for one in os.environ.get("PIP_FIND_LINKS", "").split() if Path(one).is_dir()]
        rehearsal = Rehearsal(options.file, Path(folder), _pairs(options.build_arg), [*options.mount, *wheels])
        try:
            stage = rehearsal.build(options.target)
            if options.serve:
                rehearsal.serve(stage, _pairs(options.env), options.patience)
        except RehearsalError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            if options.json:
                options.json.write_text(json.dumps(rehearsal.steps, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
