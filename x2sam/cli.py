"""``python -m x2sam``: the model from a terminal. Names, arguments and JSON keys are relied on by scripts.

PyTorch takes seconds to import, so each command imports what it runs; ``--help`` and mistyped arguments answer at once.
"""

from __future__ import annotations

import typer

from x2sam.commands import adapt as adapt_command
from x2sam.commands import bench as bench_command
from x2sam.commands import chat, data, models, segment, track, train

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """X2SAM: segment anything in pictures and videos from clicks, boxes, masks and words."""


app.command("segment")(segment.segment)
app.command("track")(track.track)
app.command("chat")(chat.chat)
app.command("convert")(models.convert)
app.command("download")(models.download)
app.command("train")(train.train)
app.command("adapt")(adapt_command.adapt)
app.command("bench")(bench_command.bench)
app.add_typer(data.app, name="data")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def evaluate(context: typer.Context) -> None:
    """Score a model: clicks, video, referring, scenes, mcq, and any task on any annotation format."""
    # Late, with everything behind the word handed on: evaluation brings its own commands, options and help.
    from x2sam.evaluation.cli import app as evaluation

    evaluation(args=context.args, prog_name=context.command_path)
