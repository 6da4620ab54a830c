"""Starts Label Studio and the ML backend, fills two projects with sample media, and says where to click.

    python scripts/demo.py [--once] [--model nano]

Everything is kept in var/demo, so work done in the demo is still there the next time. ``--once`` (or DEMO_ONCE=1) tries
a click and a track through Label Studio's API and ends.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import av
from label_studio_server import ChildServer, LabelStudioServer, ServerError, click, free_port
from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "samples"
CONFIGS = ROOT / "label_config"
FIRST_CLICK = ("bus.jpg", 45.0, 53.0)  # percent: on the side of the bus
CHAIR = (17.0, 18.0)  # percent: on the back of the chair on the first page of the clip
EVERY = 2  # of the clip's frames, every second one becomes a page


@dataclass(frozen=True)
class Demo:
    """What was set up: projects, backends, the tasks of the picture project by file name, and that of the clip; ids."""

    pictures: int
    clip: int
    backend: int
    tasks: dict[str, int]
    clip_backend: int
    clip_task: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", default=os.environ.get("DEMO_ONCE") == "1")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--folder", type=Path, default=ROOT / "var" / "demo")
    options = parser.parse_args()
    folder = options.folder.resolve()
    python = Path(os.environ.get("LABEL_STUDIO_PYTHON", ROOT / ".venv-ls" / "bin" / "python"))
    label_studio = LabelStudioServer(
        python.absolute(), folder / "label-studio", folder / "files", free_port(8080), token=_token(folder)
    )
    backend = None
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell made us ignore Ctrl-C
        signal.signal(number, signal.default_int_handler)
    try:
        print("Starting Label Studio and the ML backend; the first time takes about half a minute ...", flush=True)
        label_studio.start()
        backend, backend_url = start_backend(label_studio, folder, options.model)
        prepare_files(folder / "files")
        backend.wait_ready(120)
        print("The model is loaded; waiting for Label Studio ...", flush=True)
        label_studio.wait_ready()
        demo = set_up(label_studio, backend_url)
        print(instructions(label_studio, demo), flush=True)
        if options.once:
            print(try_click(label_studio, demo), flush=True)
            print(try_track(label_studio, demo))
        else:
            _stay(label_studio.process, backend)
    except KeyboardInterrupt:
        print("\nStopping ...")
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        if backend is not None:
            backend.stop()
        label_studio.stop()
    return 0


def start_backend(label_studio: LabelStudioServer, folder: Path, model: str) -> tuple[ChildServer, str]:
    """The ML backend with the real model, and its address."""
    port = free_port(9090)
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.token,
        "BACKEND_PUBLIC_URL": url,
        "X2SAM_CACHE_DIR": str(folder / "cache"),
        "X2SAM_STATE_DIR": str(folder / "state"),
    }
    command = [sys.executable, "-m", "backend", "serve", "--port", str(port), "--model", model]
    return ChildServer("the ML backend", command, folder / "backend.log", f"{url}/ready", environment, ROOT), url


def prepare_files(root: Path) -> None:
    """Copies the pictures and unpacks the clip, once."""
    pictures, clip = root / "pictures", root / "clip"
    pictures.mkdir(parents=True, exist_ok=True)
    for path in sorted(SAMPLES.glob("*.jpg")):
        shutil.copyfile(path, pictures / path.name)
    if clip.exists():
        return
    unfinished = root / "clip.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    with av.open(str(SAMPLES / "chair.mp4")) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % EVERY == 0:
                frame.to_image().save(unfinished / f"{number:05d}.jpg", quality=90)
    unfinished.rename(clip)


def set_up(label_studio: LabelStudioServer, backend_url: str) -> Demo:
    """The two projects with their media and the backend; what is there already is kept."""
    files = label_studio.files_root
    names = sorted(path.name for path in (files / "pictures").glob("*.jpg"))
    pages = sorted(path.name for path in (files / "clip").glob("*.jpg"))
    pictures = _project(
        label_studio, "X2SAM pictures", "image_text", [{"image": _address("pictures", name)} for name in names]
    )
    clip = _project(
        label_studio, "X2SAM clip", "video_frames", [{"frames": [_address("clip", name) for name in pages]}]
    )
    clip_backend = label_studio.attach_backend(clip, backend_url)
    backend = label_studio.attach_backend(pictures, backend_url)
    listed = label_studio.api("GET", f"/api/tasks?project={pictures}&page_size=1000&fields=all")["tasks"]
    tasks = {task["data"]["image"].rsplit("/", 1)[-1]: task["id"] for task in listed}
    clips = label_studio.api("GET", f"/api/tasks?project={clip}&fields=all")["tasks"]
    return Demo(pictures, clip, backend, tasks, clip_backend, min(task["id"] for task in clips))


def try_click(label_studio: LabelStudioServer, demo: Demo) -> str:
    """Clicks on a sample picture through Label Studio's own API.

    :raises ServerError: no mask comes back, or it is not where the click is.
    """
    from backend.rle import decode_mask

    name, x, y = FIRST_CLICK
    with Image.open(SAMPLES / name) as picture:
        width, height = ImageOps.exif_transpose(picture).size
    start = time.perf_counter()
    answer = label_studio.ask(demo.backend, demo.tasks[name], click(x, y, (height, width), "demo-click"))
    seconds = time.perf_counter() - start
    brushes = [item for item in answer["result"] if item["type"] == "brushlabels"]
    if not brushes:
        raise ServerError(f"no mask came back for a click on {name}: {json.dumps(answer)[:500]}")
    mask = decode_mask(brushes[0]["value"]["rle"], height, width)
    if not mask[int(y / 100 * height), int(x / 100 * width)]:
        raise ServerError(f"the mask for a click on {name} does not contain the click")
    return f"A click on {name} was answered in {seconds:.1f} s with a mask of {mask.mean():.1%} of the picture."


def try_track(label_studio: LabelStudioServer, demo: Demo) -> str:
    """Tracks the chair over the pages of the clip through Label Studio's own API.

    :raises ServerError: it comes back on no page but the one of the click.
    """
    names = sorted(path.name for path in (label_studio.files_root / "clip").glob("*.jpg"))
    with Image.open(label_studio.files_root / "clip" / names[0]) as page:
        width, height = page.size
    prompt = click(*CHAIR, (height, width), "demo-track", "Object 1", from_name="track_point", item_index=0)
    start = time.perf_counter()
    answer = label_studio.ask(demo.clip_backend, demo.clip_task, prompt)
    seconds = time.perf_counter() - start
    pages = {item["item_index"] for item in answer["result"] if item["type"] == "bitmasklabels"}
    if len(pages) < 2:
        raise ServerError(f"a click on the chair was not tracked: {json.dumps(answer)[:500]}")
    return f"A click on the chair was tracked over {len(pages)} of {len(names)} pages in {seconds:.1f} s."


def instructions(label_studio: LabelStudioServer, demo: Demo) -> str:
    """What to open and where to click."""
    return f"""
Label Studio is ready: {label_studio.url}
  login     {label_studio.username}
  password  {label_studio.password}

  pictures  {label_studio.url}/projects/{demo.pictures}/data
  a clip    {label_studio.url}/projects/{demo.clip}/data

Open a task and switch on "Auto-Annotation" at the bottom. Leave "Auto-Accept Suggestions" off. Then
  - click on the label "Object" below "Click", press K, and click on the thing: a mask appears;
  - press 1 and click once more to add to it, or Alt + click on what does not belong;
  - the tick beside "suggestions" keeps the mask, the cross throws it away. Keep one before you go on to the next;
  - for a box press R, then 3, and draw it; K and 1 go back to clicks;
  - or type what you look for ("the bus") into the prompt field and press Enter: the answer stands beside it;
  - in the clip press 7, click the pink button of the tools, and click on the chair: it is tracked over all pages.
More is in label_config/guide/README.md.
"""


def _project(label_studio: LabelStudioServer, title: str, config: str, tasks: list[dict]) -> int:
    xml = (CONFIGS / f"{config}.xml").read_text(encoding="utf-8")
    existing = label_studio.projects().get(title)
    if existing is not None:
        # What we tell to press is true for today's configuration only.
        label_studio.api("PATCH", f"/api/projects/{existing}/", {"label_config": xml})
        return existing
    # Nothing is predicted when a task is opened: the first thing to see is a click.
    project = label_studio.create_project(title, xml, show_collab_predictions=False)
    for folder in sorted(label_studio.files_root.iterdir()):
        if folder.is_dir():
            label_studio.serve_folder(project, folder)
    label_studio.import_tasks(project, tasks)
    return project


def _address(folder: str, name: str) -> str:
    return f"/data/local-files/?d={folder}/{name}"


def _token(folder: Path) -> str:
    """The demo user's token, made with the user the first time."""
    path = folder / "token"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(20))
    return path.read_text()


def _stay(*servers: ChildServer) -> None:
    print("Ctrl-C stops everything.", flush=True)
    while True:
        time.sleep(1)
        for server in servers:
            if not server.running():
                raise ServerError(f"{server.name} has stopped:\n{server.log_tail()}")


if __name__ == "__main__":
    sys.path.append(str(ROOT))
    sys.exit(main())
