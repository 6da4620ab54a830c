"""requirements.txt pins what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def test_every_direct_dependency_is_pinned_within_its_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"]["test"])]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if re.match(r"[a-z]", line))
    for requirement in wanted:
        assert requirement.specifier.contains(pinned[requirement.name]), requirement


def test_no_file_names_a_package_index():
    for path in ROOT.glob("requirements*.txt"):
        assert not re.search(r"^-|index-url|find-links", path.read_text(encoding="utf-8"), re.MULTILINE), path
