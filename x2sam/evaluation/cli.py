"""``python -m x2sam evaluate``: score a model on pictures and clips with ground truth.

Every command takes a model, a device, ``--limit``, ``--json FILE`` (written whole or not at all) and ``--worst DIR``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from x2sam.commands.common import Device, Model, Result, chosen_device, output_directory, plain_errors, write_json
from x2sam.data.tasks import find_task
from x2sam.errors import FramesError
from x2sam.evaluation.clicks import PROMPTS as CLICK_PROMPTS
from x2sam.evaluation.clicks import evaluate_clicks
from x2sam.evaluation.drift import evaluate_drift
from x2sam.evaluation.mcq import LikelyLetters, evaluate_choices, read_questions
from x2sam.evaluation.occlusion import evaluate_occlusion
from x2sam.evaluation.protocol import SAMPLINGS, Protocol
from x2sam.evaluation.referring import evaluate_referring
from x2sam.evaluation.report import show, table_of
from x2sam.evaluation.scenes import evaluate_scenes
from x2sam.evaluation.usefulness import ASKS, evaluate_usefulness
from x2sam.evaluation.video import PROMPTS as VIDEO_PROMPTS
from x2sam.evaluation.video import REACH, evaluate_video, peak_rss_mb
from x2sam.evaluation.worst import WorstCases

app = typer.Typer(help="Score a model on pictures and clips with ground truth.", no_args_is_help=True)

Data = Annotated[Path, typer.Option("--data", help="Directory with images.json, videos.json, referring.json.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N of the list.")]
NoSnap = Annotated[bool, typer.Option("--no-snap", help="Leave out the last step that makes a mask obey its clicks.")]
Worst = Annotated[
    Path | None, typer.Option("--worst", metavar="DIR", help="Write pictures of the worst answers beside the truth.")
]


@app.command()
def clicks(
    data: Data,
    model: Model = "auto",
    prompt: Annotated[str, typer.Option(help="First prompt: " + ", ".join(CLICK_PROMPTS) + ".")] = "click",
    clicks: Annotated[int, typer.Option(min=1, help="Prompts per object, the first included.")] = 5,
    limit: Limit = None,
    no_snap: NoSnap = False,
    device: Device = "auto",
    result: Result = None,
    worst: Worst = None,
) -> None:
    """IoU after each click, the next one always in the middle of the largest error."""

    def measure(engine: Any, cases: WorstCases | None) -> dict:
        return evaluate_clicks(engine, data, prompt, clicks, limit, show, cases).summary()

    _run(measure, model, device, result, worst, snap=not no_snap)


@app.command()
def video(
    data: Data,
    model: Model = "auto",
    prompt: Annotated[str, typer.Option(help="On the first frame: " + ", ".join(VIDEO_PROMPTS) + ".")] = "mask",
    corrections: Annotated[int, typer.Option(min=0, help="Then correct each object's worst frame so often.")] = 0,
    restart: Annotated[
        bool, typer.Option("--restart", help="Also measure tracks that begin anew at the worst frame, as often.")
    ] = False,
    reach: Annotated[
        float, typer.Option(min=0, max=1, help="Count interactions until an object has this J&F.")
    ] = REACH,
    memory: Annotated[str | None, typer.Option(help="How objects are remembered; by default the engine's way.")] = None,
    limit: Limit = None,
    no_snap: NoSnap = False,
    device: Device = "auto",
    result: Result = None,
    worst: Worst = None,
) -> None:
    """J and F of objects that are followed through clips, with speed and memory."""

    def measure(engine: Any, cases: WorstCases | None) -> dict:
        return evaluate_video(engine, data, prompt, corrections, limit, show, cases, restart, reach).summary()

    settings = {} if memory is None else {"memory": memory}
    _run(measure, model, device, result, worst, snap=not no_snap, **settings)


@app.command()
def drift(
    data: Data,
    model: Model = "auto",
    prompt: Annotated[str, typer.Option(help="On the first frame: " + ", ".join(VIDEO_PROMPTS) + ".")] = "mask",
    limit: Limit = None,
    device: Device = "auto",
    result: Result = None,
) -> None:
    """How many of the frames with a wrong mask come first where the most doubtful is looked at first."""

    def measure(engine: Any, cases: WorstCases | None) -> dict:
        return {"model": engine.version, **evaluate_drift(engine, data, prompt, limit, show).summary()}

    _run(measure, model, device, result, None)


@app.command()
def useful(
    data: Annotated[Path, typer.Option("--data", help="Directory with images.json or train.json.")],
    model: Model = "auto",
    ask: Annotated[str, typer.Option(help="What pictures are asked: " + " or ".join(ASKS) + ".")] = "words",
    seeds: Annotated[int, typer.Option(min=1, help="So many seeds draw the kinds of things that are asked for.")] = 3,
    limit: Limit = None,
    device: Device = "auto",
    result: Result = None,
) -> None:
    """How much more error than at random is found where the tasks of pre-annotation with the lowest scores go first."""

    def measure(engine: Any, cases: WorstCases | None) -> dict:
        return evaluate_usefulness(engine, data, ask, range(seeds), limit, show)

    _run(measure, model, device, result, None)


@app.command()
def occlusion(
    data: Annotated[Path, typer.Option("--data", help="Directory with videos.json (clips) or train.json (pictures).")],
    model: Model = "auto",
    hidden: Annotated[int, typer.Option(min=1, help="Frames that each object is hidden for.")] = 12,
    generated: Annotated[int, typer.Option(min=0, help="Clips to generate, where DIR has train.json.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Other seeds hide objects behind other things.")] = 0,
    memory: Annotated[list[str] | None, typer.Option(help="A memory mode; all of them, unless some are named.")] = None,
    limit: Limit = None,
    device: Device = "auto",
    result: Result = None,
) -> None:
    """J and F of objects that were hidden for a while, after they came back, for each memory mode."""

    def measure(engine: Any, cases: WorstCases | None) -> dict:
        found = evaluate_occlusion(engine, data, generated, hidden, seed, memory or (), limit, show)
        return {"model": engine.version, **found}

    _run(measure, model, device, result, None)


@app.command()
def referring(
    data: Data,
    model: Model = "auto",
    limit: Limit = None,
    no_snap: NoSnap = False,
    device: Device = "auto",
    result: Result = None,
    worst: Worst = None,
) -> None:
    """How well the objects that phrases mean are found."""

    def measure(engine: Any, cases: WorstCases | None) -> dict:
        return evaluate_referring(engine, data, limit, show, cases).summary()

    _run(measure, model, device, result, worst, snap=not no_snap)


@app.command()
def scenes(
    pictures: Annotated[int, typer.Option(min=1, help="How many pictures to generate.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Other seeds give other pictures.")] = 0,
    size: Annotated[int, typer.Option(min=64, help="Height and width in pixels.")] = 320,
    model: Model = "auto",
    limit: Limit = None,
    device: Device = "auto",
    result: Result = None,
    worst: Worst = None,
) -> None:
    """How well objects are found by their expressions on freshly generated pictures."""

    def measure(engine: Any, cases: WorstCases | None) -> dict:
        summary = evaluate_scenes(engine, pictures, seed, size, limit, show, cases).summary()
        return {"model": engine.version, "seed": seed, "size": size, **summary}

    _run(measure, model, device, result, worst)


@app.command()
def mcq(
    questions: Annotated[Path, typer.Argument(metavar="FILE", help="A JSON list of questions with choices.")],
    media: Annotated[Path | None, typer.Option(help="Where media paths start; by default beside FILE.")] = None,
    model: Model = "auto",
    limit: Limit = None,
    device: Device = "auto",
    result: Result = None,
) -> None:
    """Multiple choice about pictures and videos: [{"media", "question", "choices": [...], "answer": "B"}, ...]."""

    def measure(engine: Any, cases: WorstCases | None) -> dict:
        asked = read_questions(questions, media)
        return {"model": engine.version, **evaluate_choices(LikelyLetters(engine), asked, limit, show).summary()}

    _run(measure, model, device, result, None)


@app.command()
def task(
    name: Annotated[str, typer.Option("--task", help="genseg, ovseg, refseg, reaseg, intseg, objseg, vgdseg, gcgseg.")],
    format: Annotated[str, typer.Option(help="Format of the annotations; an unknown one lists those that are known.")],
    annotations: Annotated[str, typer.Option(help="The annotation file, or the directory of directory formats.")] = "",
    images: Annotated[str, typer.Option(help="Where file names of pictures, frames and videos start.")] = "",
    masks: Annotated[str, typer.Option(help="Directory of label maps, where they are files of their own.")] = "",
    source: Annotated[str, typer.Option(help="The annotations that --annotations refers to.")] = "",
    split: Annotated[str, typer.Option(help="Only this split, where the format has splits.")] = "",
    mode: Annotated[str, typer.Option(help="Of panoptic sources: instance, semantic or panoptic.")] = "",
    modality: Annotated[str, typer.Option(help="image or video, where a file holds both.")] = "",
    prompt: Annotated[str, typer.Option(help="Drawn prompts: point, " + ", ".join(CLICK_PROMPTS) + ".")] = "click",
    chunk: Annotated[int, typer.Option(min=1, help="Frames of a video that are asked together.")] = 8,
    sampling: Annotated[str | None, typer.Option(help=", ".join(SAMPLINGS) + "; by default the task's.")] = None,
    frames_per_clip: Annotated[int | None, typer.Option(min=1, help="Read videos in parts of so many frames.")] = None,
    several: Annotated[bool, typer.Option("--several", help="An expression may mean several objects or none.")] = False,
    threshold: Annotated[float | None, typer.Option(help="Least score; by default the benchmarks'.")] = None,
    seen: Annotated[Path | None, typer.Option(help="JSON list of trained categories: followed objects apart.")] = None,
    text_encoder: Annotated[Path | None, typer.Option(help="Directory of an encoder that compares phrases.")] = None,
    model: Model = "auto",
    limit: Limit = None,
    device: Device = "auto",
    result: Result = None,
    worst: Worst = None,
) -> None:
    """Any task on any annotation format, asked and scored as its published benchmark does."""

    def measure(engine: Any, cases: WorstCases | None) -> dict:
        # Late, as the engine itself: both bring PyTorch.
        from x2sam.data.readers import DatasetSpec, open_dataset
        from x2sam.evaluation.benchmark import BenchmarkModel
        from x2sam.evaluation.loop import evaluate_task

        # Benchmarks say point where a person says click; either is understood.
        protocol = Protocol(chunk, sampling, "click" if prompt == "point" else prompt, several, threshold)
        drawn = "point" if prompt == "click" else prompt
        spec = DatasetSpec(
            name=Path(annotations or images).stem or format, format=format, task=name, annotations=annotations,
            images=images, masks=masks, source=source, split=split, mode=mode, modality=modality,
            prompt=drawn if name == "vgdseg" else "", frames_per_clip=frames_per_clip,
        )  # fmt: skip
        options, dataset = _options(seen, text_encoder), open_dataset(spec)
        scores = evaluate_task(BenchmarkModel(engine, protocol), dataset, protocol, options, limit, show, cases)
        return {
            "model": engine.version, "dataset": spec.name, "format": format, "task": name,
            "modality": dataset.modality, "samples": scores.samples, "answers": scores.frames,
            "protocol": protocol.described(find_task(name, dataset.modality)), "metrics": scores.metrics(),
            "seconds": round(scores.seconds, 3), "peak_rss_mb": round(peak_rss_mb(), 1),
        }  # fmt: skip

    _run(measure, model, device, result, worst)


@app.command()
def learning(
    data: Annotated[Path, typer.Option("--data", help="Directory with train.json.")],
    source: Annotated[str, typer.Option(help="The domain: one of its sources, best one that the model never saw.")],
    out: Annotated[Path, typer.Option(help="Directory for what was measured, and for models meanwhile.")],
    shift: Annotated[
        str, typer.Option(help="Makes another domain of it: speckle (grain, no colours) or negative.")
    ] = "",
    masks: Annotated[str, typer.Option(help="Numbers of corrected masks, with commas.")] = "20,50,100",
    seeds: Annotated[int, typer.Option(min=1, help="How often each is measured, with other masks.")] = 3,
    steps: Annotated[int, typer.Option(min=0, help="Of each training; 0: as in service.")] = 0,
    rate: Annotated[float, typer.Option(min=0, help="Of learning; 0: as in service.")] = 0.0,
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the new weights in the mean with those before; 0: as in service.")
    ] = 0.0,
    outline: Annotated[
        int, typer.Option(min=0, help="Passes from which the last light step learns; 0: it stays as it is.")
    ] = 10,
    elsewhere: Annotated[
        Path | None, typer.Option(help="Labelled pictures of other kinds; default: generated scenes.")
    ] = None,
    pictures: Annotated[int, typer.Option(min=2, help="Most pictures of either kind to measure on.")] = 30,
    clicks: Annotated[int, typer.Option(min=1, help="Prompts per object.")] = 5,
    model: Model = "auto",
    device: Device = "auto",
    result: Result = None,
) -> None:
    """Clicks and IoU on other pictures of a domain, before and after a simulated annotator corrected masks of it.

    The result is written after each training. The same call goes on where one was stopped.
    """
    try:
        counts = [int(part) for part in masks.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise typer.BadParameter(f"{masks!r} should be like 20,50,100", param_hint="--masks")
    output_directory(out)
    with plain_errors():
        # Late: all of them bring PyTorch.
        from x2sam.data.readers.labelmaps import LabelMapDataset
        from x2sam.evaluation.learning import Domain, evaluate_learning
        from x2sam.inference.engine import Engine
        from x2sam.placement import find_model
        from x2sam.training.adapt import Adaptation
        from x2sam.training.yielding import PATIENT

        place = chosen_device(device)

        def told(found: dict) -> None:
            write_json(result, found)

        def load(directory: Path, snap: bool) -> Engine:
            return Engine.load(directory, place, timeout=PATIENT, hang=PATIENT, snap=snap)

        domain = Domain(LabelMapDataset(data), source, shift)
        wanted = Adaptation(steps, rate, share=share or Adaptation.share, outline=outline)
        found = evaluate_learning(
            load, find_model(model), domain, out, counts, range(seeds), wanted, elsewhere, pictures, clicks, place,
            told,
        )  # fmt: skip
        Console().print_json(data=found)
        write_json(result, found)


def _options(seen: Path | None, text_encoder: Path | None):
    from x2sam.evaluation.meters import MeterOptions
    from x2sam.evaluation.text_similarity import EncoderSimilarity

    options: dict[str, Any] = {}
    if seen is not None:
        try:
            names = json.loads(seen.read_text(encoding="utf-8"))
        except (OSError, ValueError) as problem:
            raise FramesError(f"{seen} can't be read ({problem}); write a JSON list of category names") from problem
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise FramesError(f"{seen} is no list of names; write the categories that were trained on as a JSON list")
        options["seen"] = tuple(names)
    if text_encoder is not None:
        options |= {"similarity": EncoderSimilarity(text_encoder), "similarity_name": text_encoder.name}
    return MeterOptions(**options)


def _run(
    measure: Callable[[Any, WorstCases | None], dict],
    model: str,
    device: str,
    result: Path | None,
    worst: Path | None,
    **settings: Any,
) -> None:
    """Load, measure, show and write; a problem that names its cure ends the command with that sentence."""
    if worst is not None:
        output_directory(worst)
    with plain_errors():
        # Torch takes seconds to import: --help and wrong arguments should not wait for it.
        from x2sam.inference.engine import Engine

        cases = None if worst is None else WorstCases()
        engine = Engine.load(model, chosen_device(device), **settings)
        try:
            summary = measure(engine, cases)
        finally:
            engine.close()
        Console().print(table_of(summary))
        write_json(result, summary)
        if cases is not None and worst is not None:
            cases.write(worst)
