"""What the commands say: one sentence where something is wrong, before anything is asked or written."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from typer.testing import CliRunner

from backend.cli import app
from backend.console import FileError, progress_bar, say, write_result
from backend.export_run import Wanted, export
from backend.export_sources import JsonFile
from backend.export_staging import ExportError

LONG = "There is no /data/" + "folder/" * 20 + "file.json; check the path."


def written(**terminal):
    console = Console(file=io.StringIO(), width=60, **terminal)
    say(console, LONG, "red")
    return console.file.getvalue()


def test_a_sentence_is_one_line_where_it_goes_into_a_file():
    assert written() == f"{LONG}\n"
    assert written(force_terminal=True).count("\n") > 3


def test_work_without_words_of_its_own_stops_nothing():
    with progress_bar() as report:
        report("tasks", 1, 2)
        report("something new", 1, 0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("export", "--format", "voc"), "no format 'voc'; choose one of coco, ytvis, davis, png, x2sam"),
        (("export", "--format", "coco", "--pages", "some"), "--pages is 'some'; choose one of all, marked"),
        (("export", "--format", "png", "--values", "objects"), "--values is 'objects'; choose one of category, object"),
        (("preannotate", "--engine", "rays"), "no engine 'rays'"),
    ],
)
def test_words_that_are_not_known_are_told_before_label_studio_is_asked(words, told, tmp_path, monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")  # nobody answers there
    out = ("--out", str(tmp_path / "out")) if words[0] == "export" else ()
    done = CliRunner().invoke(app, [*words, "--project", "1", *out])
    assert done.exit_code == 2 and told in done.output
    assert not (tmp_path / "out").exists()


def test_an_export_that_took_nothing_leaves_no_file(tmp_path):
    with pytest.raises(ExportError, match="can't be read"):
        export(JsonFile(tmp_path / "none.json"), Wanted("coco", tmp_path / "out"), lambda *_: None)
    assert not (tmp_path / "out").exists()


def test_a_place_that_can_not_be_written_is_told_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"/file/out can't be made \(Not a directory\); choose another --out"):
        export(JsonFile(tmp_path / "none.json"), Wanted("coco", tmp_path / "file" / "out"), lambda *_: None)
    with pytest.raises(FileError, match=r"result.json can't be written \(Not a directory\); all else is done"):
        write_result(tmp_path / "file" / "result.json", {"done": 1})
