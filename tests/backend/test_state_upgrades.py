"""State files of every earlier release are brought up to date with all that is in them, or are left as they were.

Versions come from the lists of migrations themselves, so a new migration is covered when it is written.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from backend import journal_file, video_library
from backend.errors import BackendError
from backend.journal import Journal
from backend.journal_codec import name_of, pack_step
from backend.remembered import PackedMask, Step

BACKEND = Path(__file__).parents[2] / "backend"
FILES = {"journal.sqlite3": journal_file, "videos.sqlite3": video_library}
EARLIER = [(name, version) for name, module in FILES.items() for version in range(len(module._MIGRATIONS))]


def opened(name: str, folder: Path) -> None:
    """As a server opens it at its start."""
    if name == "journal.sqlite3":
        journal_file.JournalFile(folder).close()
    else:
        with video_library.VideoLibrary(folder)._begin(reads=True):
            pass


def made(name: str, folder: Path, version: int) -> Path:
    """The file as the release that first had ``version`` made it, with a row in each table."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(folder / name)) as database:
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        for statement in (one for group in FILES[name]._MIGRATIONS[:version] for one in group):
            database.execute(statement)
        for table in tables(database):
            kinds = [row[2] for row in database.execute(f"PRAGMA table_info({table})")]
            values = [{"TEXT": '["7"]', "INTEGER": 1, "REAL": 2e9, "BLOB": b"x"}[kind] for kind in kinds]
            database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)
        database.execute(f"PRAGMA user_version = {version}")
        database.commit()
    return folder / name


def tables(database: sqlite3.Connection) -> list[str]:
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    return [row[0] for row in database.execute(query)]


def content(path: Path) -> tuple[int, list, dict[str, list]]:
    """Version, schema and rows by table; each row as column to value."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        (version,) = database.execute("PRAGMA user_version").fetchone()
        schema = sorted((row["name"], row["sql"]) for row in database.execute("SELECT name, sql FROM sqlite_master"))
        rows = {name: [dict(row) for row in database.execute(f"SELECT * FROM {name}")] for name in tables(database)}
    return version, schema, rows


def test_every_state_file_is_among_these():
    having = {path.stem for path in BACKEND.glob("*.py") if re.search(r"^_MIGRATIONS\b", path.read_text(), re.M)}
    assert having == {module.__name__.rpartition(".")[2] for module in FILES.values()}
    assert all(importlib.import_module(f"backend.{name}")._MIGRATIONS for name in having)


@pytest.mark.parametrize("name, version", EARLIER)
def test_every_earlier_file_becomes_one_of_today(name, version, tmp_path):
    opened(name, tmp_path / "fresh")
    newest, schema, _ = content(tmp_path / "fresh" / name)
    assert newest == len(FILES[name]._MIGRATIONS)
    path = made(name, tmp_path / "old", version)
    _, _, before = content(path)
    opened(name, tmp_path / "old")
    now, upgraded, after = content(path)
    assert now == newest and upgraded == schema
    for table, rows in before.items():
        for row, kept in zip(rows, after.get(table, []), strict=True):
            assert {key: kept[key] for key in row if key in kept} == {key: row[key] for key in row if key in kept}
    assert all(after[table] for table in before), "nothing was lost"


@pytest.mark.parametrize("name, version", EARLIER)
def test_an_upgrade_that_breaks_off_leaves_the_file_as_it_was(name, version, tmp_path, monkeypatch):
    path = made(name, tmp_path / "old", version)
    before = content(path)
    module = FILES[name]
    broken = [*module._MIGRATIONS, ("CREATE TABLE half (id INTEGER)", "CREATE TABLE half (id INTEGER)")]
    with monkeypatch.context() as patched:
        patched.setattr(module, "_MIGRATIONS", broken)
        with pytest.raises(BackendError):
            opened(name, tmp_path / "old")
    assert content(path) == before
    opened(name, tmp_path / "old")


@pytest.mark.parametrize("version", range(1, len(journal_file._MIGRATIONS)))
def test_what_a_person_did_is_read_after_the_upgrade(version, tmp_path):
    mask = np.zeros((6, 8), bool)
    mask[2:4, 1:5] = True
    step = Step("Object", 0, PackedMask.of(mask), 0.5)
    with contextlib.closing(sqlite3.connect(made("journal.sqlite3", tmp_path, version))) as database:
        values = (name_of("7", "obj"), 0, 0, pack_step(step), 2e9)
        database.execute("INSERT INTO step (owner, page, tracked, about, made) VALUES (?, ?, ?, ?, ?)", values)
        database.commit()
    journal = Journal(tmp_path, 1 << 20, 1e9)
    ((task, name, found),) = journal.steps(1 << 20)  # and the row of nonsense is passed over
    journal.close()
    assert (task, name) == ("7", "obj")
    np.testing.assert_array_equal(found.mask.unpack(), mask)
