"""Looks up every installed package in advisories about vulnerable releases, and says what was not looked up.

    python scripts/audit.py [--advisories FILE] [--require] [--json FILE] [FOLDER...]

Without ``--advisories`` pip-audit asks the advisory service of the package index. Where that does not answer, give it a
file: the PyPI part of the OSV database, a zip of one JSON record each (also named by X2SAM_ADVISORIES). FOLDER: further
site-packages, say Label Studio's. Exit code 1: a vulnerable release is installed. Packages that could not be looked up
are counted in a line that begins with NOT AUDITED, and "no known vulnerability" is only said of those that were; with
``--require`` they make the exit code 3.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path

from packaging.version import InvalidVersion, Version

STALE = timedelta(days=30)
SECONDS = 300.0
RECORD_BYTES = 4 << 20


@dataclass
class Audit:
    """``asked``: packages in all; ``found``: package and release to advisories; ``unanswered``: package to why not;
    ``clean``: looked up, and nothing is known."""

    asked: int = 0
    found: dict[str, list[str]] = field(default_factory=dict)
    unanswered: dict[str, str] = field(default_factory=dict)
    clean: set[str] = field(default_factory=set)
    source: str = ""
    remark: str = ""

    def lines(self) -> Iterator[str]:
        """What was found, for people."""
        for package, names in sorted(self.found.items()):
            yield f"VULNERABLE {package}: {', '.join(names)}"
        if self.unanswered:
            why = ", ".join(sorted(set(self.unanswered.values())))
            yield (
                f"NOT AUDITED: {len(self.unanswered)} of {self.asked} packages ({why}). Nothing is known about them: "
                "run this where the advisory service answers, or give it a file of advisories (--advisories)."
            )
        if self.clean:
            yield f"no known vulnerability in {len(self.clean)} of {self.asked} packages, by {self.source}"
        if self.remark:
            yield self.remark


def installed(folders: Iterable[Path]) -> dict[str, str]:
    """Normalised name to release of what is installed here and in further folders."""
    found = {}
    for place in (None, *(str(folder) for folder in folders)):
        for one in metadata.distributions() if place is None else metadata.distributions(path=[place]):
            if one.metadata["Name"]:
                found[f"{normal(one.metadata['Name'])}=={one.version}"] = one.version
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def by_file(packages: Mapping[str, str], path: Path, now: datetime) -> Audit:
    """``packages``: ``name==release`` to release; compares with every record of an OSV file (osv.dev's schema 1.x)."""
    audit, newest = Audit(len(packages), source=f"the advisories of {path.name}"), ""
    by_name: dict[str, list[str]] = {}
    for package in packages:
        by_name.setdefault(package.partition("==")[0], []).append(package)
    for package, release in packages.items():
        if _version(release) is None:
            audit.unanswered[package] = "its release has no number that can be compared"
    for record in _records(path):
        newest = max(newest, record.get("modified", ""))
        for affected in () if record.get("withdrawn") else record.get("affected", ()):
            about = affected.get("package", {})
            if about.get("ecosystem") != "PyPI":
                continue
            for package in by_name.get(normal(about.get("name", "")), ()):
                if package not in audit.unanswered and touches(affected, _version(packages[package])):
                    audit.found.setdefault(package, [])
                    if record["id"] not in audit.found[package]:
                        audit.found[package].append(record["id"])
    audit.clean = packages.keys() - audit.found.keys() - audit.unanswered.keys()
    if not newest:
        raise SystemExit(f"{path} has no advisories; it should be the PyPI part of the OSV database")
    if now - datetime.fromisoformat(newest) > STALE:
        audit.remark = f"The newest advisory is of {newest[:10]}: what became known later is not in that file."
    return audit


def touches(affected: Mapping, release: Version) -> bool:
    """Whether one entry of a record's ``affected`` names a release, by its list or by its ranges."""
    if release in {version for text in affected.get("versions", ()) if (version := _version(text))}:
        return True
    return any(_within(one["events"], release) for one in affected.get("ranges", ()) if one.get("type") == "ECOSYSTEM")


def _within(events: Iterable[Mapping[str, str]], release: Version) -> bool:
    def key(event: Mapping[str, str]) -> tuple[Version, bool]:
        ((kind, text),) = event.items()
        return _version("0" if text == "0" else text) or Version("0"), kind == "last_affected"

    inside = False
    for event in sorted(events, key=key):
        ((kind, _),) = event.items()
        at, _ = key(event)
        if kind == "introduced":
            inside = inside or release >= at
        elif (kind in ("fixed", "limit") and release >= at) or (kind == "last_affected" and release > at):
            inside = False
    return inside


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


def _records(path: Path) -> Iterator[dict]:
    with zipfile.ZipFile(path) as file:
        for info in file.infolist():
            if info.filename.endswith(".json") and info.file_size <= RECORD_BYTES:
                yield json.loads(file.read(info))


def by_service(packages: Mapping[str, str], folders: Iterable[Path]) -> Audit:
    """Asks the package index by way of pip-audit."""
    audit = Audit(len(packages), source="the package index's advisories")
    for folder in (None, *folders):
        where = ["--path", str(folder)] if folder else []
        command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", *where]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
            told = json.loads(done.stdout)["dependencies"]
        except (subprocess.TimeoutExpired, ValueError, KeyError):
            told = []
        answered(audit, told)
    for package in packages:
        if package not in audit.found and package not in audit.unanswered and package not in audit.clean:
            audit.unanswered[package] = "the advisory service did not answer"
    return audit


def answered(audit: Audit, told: Iterable[Mapping]) -> None:
    """Takes up pip-audit's rows; what it skipped is not answered, whatever its last line says."""
    for row in told:
        package = f"{normal(row['name'])}=={row.get('version', '')}"
        if "skip_reason" in row:
            release = re.search(r"\(([^()]+)\)$", row["skip_reason"])
            package = package + release[1] if release else package
            audit.unanswered[package] = "the advisory service does not know them or does not answer"
        elif row.get("vulns"):
            audit.found[package] = [one["id"] for one in row["vulns"]]
        else:
            audit.clean.add(package)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--advisories", type=Path, default=os.environ.get("X2SAM_ADVISORIES"))
    parser.add_argument("--require", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    packages = installed(options.folders)
    if options.advisories:
        audit = by_file(packages, Path(options.advisories), datetime.now(UTC))
    else:
        audit = by_service(packages, options.folders)
    print("\n".join(audit.lines()))
    if options.json:
        told = {"asked": audit.asked, "found": audit.found, "unanswered": audit.unanswered, "source": audit.source}
        options.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return 1 if audit.found else 3 if audit.unanswered and options.require else 0


if __name__ == "__main__":
    sys.exit(main())
