"""The README names every module, so that a newcomer finds any file from its map."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_map_names_every_module():
    text = (ROOT / "README.md").read_text()
    known = set(re.findall(r"[\w./]+\.\w+", text))
    names = {path.rsplit("/", 1)[-1] for path in known}
    modules = [p for top in ("backend", "x2sam", "scripts") for p in (ROOT / top).rglob("*.py")]
    grouped = {"commands"}  # a folder that is named as a whole
    missing = [
        str(p.relative_to(ROOT))
        for p in modules
        if p.name not in names and p.name != "__init__.py" and p.parent.name not in grouped
    ]
    assert not missing, f"not in the README's map: {missing}"


def test_the_example_is_short():
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(example.strip().splitlines()) <= 20
    compile(example, "README.md", "exec")


def test_the_example_runs(monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(ROOT)
    exec(compile(example, "README.md", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out.strip()
