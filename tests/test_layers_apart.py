"""One direction: the backend knows the model, the model does not know the backend, and only entry points load torch.

Read from the sources, so that an import inside a function counts where it must not be and a missing package can't
hide anything.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "accelerate", "peft", "safetensors")
# what starts a process with a model in it
ENTRY_POINTS = frozenset({"backend.wsgi", "backend.cli", "backend.__main__"})


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_of(p): p for package in ("backend", "x2sam") for p in sorted((ROOT / package).rglob("*.py"))}


def walk(node: ast.AST, lazy: bool) -> Iterator[ast.AST]:
    """Every statement; without ``lazy`` only those that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        deferred = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        if lazy or not (deferred or typing):
            yield child
            yield from walk(child, lazy)


@cache
def imports_of(module: str, lazy: bool) -> frozenset[str]:
    """Modules named in a module's imports, ``from a import b`` as ``a`` and ``a.b``; relative ones made absolute."""
    path, found = SOURCES[module], set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in walk(ast.parse(path.read_text(encoding="utf-8")), lazy):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def with_parents(module: str) -> Iterator[str]:
    """A module and the packages whose ``__init__`` runs before it."""
    while module:
        yield module
        module = module.rpartition(".")[0]


def reached_from(module: str) -> dict[str, str]:
    """Everything that importing ``module`` imports, to who asked for it."""
    reached, waiting = {module: ""}, [module]
    while waiting:
        asking = waiting.pop()
        for wanted in (m for name in imports_of(asking, lazy=False) for m in with_parents(name)):
            if wanted not in reached:
                reached[wanted] = asking
                if wanted in SOURCES:
                    waiting.append(wanted)
    return reached


def named(*packages: str):
    return lambda name: name.partition(".")[0] in packages


def test_the_sources_are_seen():
    assert {"x2sam.inference.engine", "x2sam.model.x2sam", "backend.app", "backend.wsgi"} <= SOURCES.keys()
    assert "torch" in reached_from("x2sam.inference.engine")


@pytest.mark.parametrize("module", [m for m in SOURCES if m.startswith("x2sam")])
def test_the_model_knows_no_backend_no_web_and_no_label_studio(module):
    wrong = filter(named("backend", "flask", "werkzeug", "gunicorn", "label_studio_sdk"), imports_of(module, lazy=True))
    assert not list(wrong)


@pytest.mark.parametrize("module", [m for m in SOURCES if m.startswith("backend") and m not in ENTRY_POINTS])
def test_the_backend_speaks_without_torch(module):
    assert not list(filter(named(*HEAVY), imports_of(module, lazy=True)))
    reached = reached_from(module)
    wrong = {name: reached[name] for name in filter(named(*HEAVY), reached)}
    assert not wrong, f"importing {module} loads {wrong}"


def test_entry_points_exist():
    assert SOURCES.keys() >= ENTRY_POINTS
