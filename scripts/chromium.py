"""Finds a Chromium for the browser tests, or gets one: ``python scripts/chromium.py`` prints its path.

Looked for, in this order: the variable CHROMIUM, a browser on the PATH, the one that Playwright downloaded. What is
missing is installed from the distribution where apt has it and asks for no password (as root, or with sudo), else
downloaded by Playwright. Exits with 1 and says what to type when neither works; on a machine of continuous integration
(CI=true) the tests then fail, elsewhere they skip the browser.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

_NAMES = ("chromium", "google-chrome-stable", "google-chrome", "chromium-browser")
_DOWNLOADED = ("chrome", "chrome-headless-shell", "headless_shell")
_NO_QUESTIONS = {"DEBIAN_FRONTEND": "noninteractive"}
HOW_TO_GET = (
    "No Chromium for the browser tests. Debian: sudo apt-get install chromium. Elsewhere: "
    f"sudo {sys.executable} -m playwright install --with-deps chromium-headless-shell. Or name one: CHROMIUM=/path"
)


def find() -> str | None:
    """The path of a browser that starts, or None."""
    named = os.environ.get("CHROMIUM")
    candidates = [named] if named else [*map(shutil.which, _NAMES), _downloaded()]
    return next((path for path in candidates if path and _starts(path)), None)


def get() -> str | None:
    """Like :func:`find`, after installing one where there is none."""
    if path := find():
        return path
    prefix = _administrator()
    for command in _ways(prefix):
        print("Getting a Chromium for the browser tests:", " ".join(command), file=sys.stderr, flush=True)
        if _runs(command) and (path := find()):
            return path
    return None


def _ways(prefix: list[str] | None) -> list[list[str]]:
    """Commands to try one after the other; the first one that brings a browser is enough."""
    ways = []
    if prefix is not None and shutil.which("apt-get"):
        environment = [f"{name}={value}" for name, value in _NO_QUESTIONS.items()]
        apt = [*prefix, "env", *environment, "apt-get"]
        if not _offers_chromium():
            _runs([*apt, "update", "-qq"])
        if _offers_chromium():
            ways.append([*apt, "install", "-y", "-qq", "--no-install-recommends", "chromium"])
    with_libraries = ["--with-deps"] if prefix is not None else []
    ways.append([sys.executable, "-m", "playwright", "install", *with_libraries, "chromium-headless-shell"])
    return ways


def _administrator() -> list[str] | None:
    """What to put before a command that needs rights: nothing for root, sudo where it asks nothing, None without."""
    if os.geteuid() == 0:
        return []
    return ["sudo", "-n"] if shutil.which("sudo") and _runs(["sudo", "-n", "true"], quiet=True) else None


def _offers_chromium() -> bool:
    """Whether apt knows a Chromium of its own: Ubuntu's package of that kind only leads to a snap."""
    shown = subprocess.run(["apt-cache", "policy", "chromium"], capture_output=True, text=True, check=False).stdout
    candidate = next((line for line in shown.splitlines() if "Candidate:" in line), "(none)")
    return "(none)" not in candidate and "snap" not in candidate


def _downloaded() -> str | None:
    """The browser of the folders that Playwright would download to."""
    command = [sys.executable, "-m", "playwright", "install", "--dry-run", "chromium", "chromium-headless-shell"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    folders = [line.partition(":")[2].strip() for line in told.splitlines() if "Install location:" in line]
    programs = (path for folder in folders for name in _DOWNLOADED for path in Path(folder).glob(f"chrom*/{name}"))
    return next(map(str, programs), None)


def _starts(path: str) -> bool:
    """Ubuntu's chromium-browser is there and doesn't start without snap; a download may lack libraries."""
    return _runs([path, "--version"], quiet=True)


def _runs(command: list[str], quiet: bool = False) -> bool:
    out = subprocess.DEVNULL if quiet else sys.stderr
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False).returncode == 0
    except OSError:
        return False


def main() -> int:
    path = get()
    print(path or HOW_TO_GET, file=sys.stdout if path else sys.stderr)
    return 0 if path else 1


if __name__ == "__main__":
    sys.exit(main())
