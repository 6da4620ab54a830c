"""The dependency audit: what it matches, and that it never says more than it was told."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import audit  # noqa: E402

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def ranged(*events: dict[str, str]) -> dict:
    return {"ranges": [{"type": "ECOSYSTEM", "events": list(events)}]}


@pytest.mark.parametrize(
    "affected, release, hit",
    [
        ({"versions": ["1.0", "1.1"]}, "1.1.0", True),
        ({"versions": ["1.0", "1.1"]}, "1.2", False),
        (ranged({"introduced": "0"}, {"fixed": "2.0"}), "1.9", True),
        (ranged({"introduced": "0"}, {"fixed": "2.0"}), "2.0rc1", True),  # before 2.0
        (ranged({"introduced": "0"}, {"fixed": "2.0"}), "2.0", False),
        (ranged({"introduced": "1.5"}, {"last_affected": "2.0"}), "2.0", True),
        (ranged({"introduced": "1.5"}, {"last_affected": "2.0"}), "2.0.1", False),
        (ranged({"introduced": "1.5"}, {"last_affected": "2.0"}), "1.4", False),
        # two branches were mended; the events come in any order
        (ranged({"fixed": "2.3"}, {"introduced": "2.0"}, {"fixed": "1.8"}, {"introduced": "0"}), "2.1", True),
        (ranged({"fixed": "2.3"}, {"introduced": "2.0"}, {"fixed": "1.8"}, {"introduced": "0"}), "1.9", False),
        ({"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, "1.0", False),
    ],
)
def test_which_releases_an_advisory_names(affected, release, hit):
    assert audit.touches(affected, Version(release)) is hit


def advisories(path: Path, *records: dict) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for number, record in enumerate(records):
            file.writestr(f"{number}.json", json.dumps({"modified": "2026-02-20T00:00:00Z", **record}))
    return path


def about(name: str, *events: dict[str, str], ecosystem: str = "PyPI") -> dict:
    return {"package": {"ecosystem": ecosystem, "name": name}, **ranged(*events)}


def test_against_a_file(tmp_path):
    everything = {"introduced": "0"}
    file = advisories(
        tmp_path / "all.zip",
        {"id": "A-1", "affected": [about("Some_Package", everything)]},
        {"id": "A-2", "affected": [about("other", everything)], "withdrawn": "2026-01-01T00:00:00Z"},
        {"id": "A-3", "affected": [about("other", everything, ecosystem="npm")]},
    )
    packages = {"some-package==1.0": "1.0", "other==1.0": "1.0", "odd==x": "x"}
    found = audit.by_file(packages, file, NOW)
    assert found.found == {"some-package==1.0": ["A-1"]} and found.clean == {"other==1.0"}
    told = list(found.lines())
    assert told[0] == "VULNERABLE some-package==1.0: A-1" and told[1].startswith("NOT AUDITED: 1 of 3")
    assert told[2].startswith("no known vulnerability in 1 of 3 packages") and len(told) == 3
    old = list(audit.by_file(packages, file, datetime(2026, 6, 1, tzinfo=UTC)).lines())
    assert "2026-02-20" in old[-1]
    with pytest.raises(SystemExit, match="no advisories"):
        audit.by_file(packages, advisories(tmp_path / "empty.zip"), NOW)


def test_what_the_service_skipped_is_not_called_safe():
    asked = audit.Audit(asked=3, source="the index")
    audit.answered(
        asked,
        [
            {"name": "A", "skip_reason": "Dependency not found on PyPI and could not be audited: A (1.0)"},
            {"name": "b", "version": "2.0", "vulns": [{"id": "X-1"}]},
            {"name": "c", "version": "3.0", "vulns": []},
        ],
    )
    assert asked.unanswered.keys() == {"a==1.0"} and asked.found == {"b==2.0": ["X-1"]} and asked.clean == {"c==3.0"}
    none = audit.Audit(asked=1, source="the index", unanswered={"a==1.0": "it does not answer"})
    (line,) = none.lines()
    assert line.startswith("NOT AUDITED: 1 of 1") and "no known" not in line


def test_the_command_on_what_is_installed(tmp_path):
    import flask  # noqa: F401  # one package that is surely installed

    whole = {"introduced": "0"}
    for record, code, word in (
        ({"id": "A-1", "affected": [about("flask", whole)]}, 1, "VULNERABLE flask=="),
        ({"id": "A-1", "affected": [about("nobody-has-this", whole)]}, 0, "no known vulnerability in "),
    ):
        file = advisories(tmp_path / "all.zip", record)
        command = [sys.executable, ROOT / "scripts" / "audit.py", "--advisories", file, "--json", tmp_path / "told"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == code and word in done.stdout, done.stdout + done.stderr
        assert json.loads((tmp_path / "told").read_text())["asked"] > 50
