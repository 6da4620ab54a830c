"""``python -m x2sam chat``: an answer in words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from x2sam.commands.common import Clock, Device, Model, Result, load_engine, plain_errors, progress_bar, write_json
from x2sam.errors import PicturesOnlyError


def chat(
    media: Annotated[Path, typer.Argument(metavar="MEDIA", help="A picture, a video, or a folder of pictures.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask about it.")],
    model: Model = "auto",
    device: Device = "auto",
    result: Result = None,
) -> None:
    """Ask a question about a picture or a video."""
    clock = Clock()
    with plain_errors(), progress_bar(3, "loading the model") as step:
        with clock.measure("load"):
            engine = load_engine(model, device)
        with engine:
            step("opening the media")
            with clock.measure("open"):
                session = engine.open(media)
                if len(session) > 1 and not engine.remembers:
                    raise PicturesOnlyError.of(engine.name)
            step("answering")
            with clock.measure("answer"):
                answer, _ = session.chat(question)
            step()
    write_json(result, {"model": engine.version, "answer": answer, "ms": clock.ms})
    typer.echo(answer)
