"""Every claim of the page about threats names a test that is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "backend" / "THREATS.md"


def test_each_claim_has_its_test():
    rows = re.findall(r"^\| (?!claim|---)(.+?) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    assert len(rows) > 25
    for claim, proof in rows:
        named = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", proof)
        assert named, f"{claim}: no test is named"
        tree = ast.parse((ROOT / named[1]).read_text(encoding="utf-8"))
        known = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert named[2] in known, f"{claim}: {named[1]} has no {named[2]}"
