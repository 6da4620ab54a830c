"""A published model from the hub, converted for use (``python -m x2sam download``).

A revision is resolved to a commit once, before the first byte is fetched, and written down: beside the model's place
while files are fetched and converted, then in the model's ``source.json``. Later runs take that commit, so that an
interrupted download goes on with the same files and a repeated one makes the same model, whatever moved on the hub.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from x2sam.config import X2SAMConfig
from x2sam.convert import check_place, convert
from x2sam.convert import silent as no_step
from x2sam.data.tokenizer import load_tokenizer
from x2sam.errors import DownloadError, WeightsError
from x2sam.hub_files import Hub, HubFile, Snapshot, digest_of, disk_errors
from x2sam.inference.chat_text import STYLES
from x2sam.inference.conversation import ChatEncoder
from x2sam.model.weights import EMBEDDING, from_state, load_config, load_tensors
from x2sam.placement import HUB_NAMES, PUBLISHED, PUBLISHED_XSAM

CHECKPOINTS = "hao9610/X2SAM"
BASE = "Qwen/Qwen3-VL-4B-Instruct"
# the base's weights, tokenizer and sizes; not its pictures and code
BASE_FILES = ("*.json", "*.safetensors", "*.txt")
LAST_STAGE = "s3_train/"
WEIGHT_FILES = ("pytorch_model.bin", "model.safetensors")


@dataclass(frozen=True)
class Published:
    """A published model: repositories of its weights and of its base, what is needed of the base, and the directory of
    the last training stage among the weights."""

    checkpoint: str
    base: str
    base_files: tuple[str, ...]
    last_stage: str


# of Phi-3 the tokenizer and the sizes: X-SAM's weights are complete
MODELS = {
    PUBLISHED: Published(CHECKPOINTS, BASE, BASE_FILES, LAST_STAGE),
    PUBLISHED_XSAM: Published(
        "hao9610/X-SAM", "microsoft/Phi-3-mini-4k-instruct", ("*.json", "*.txt", "*.model"), "s3_mixed_finetune/"
    ),
}
STEPS = 9
SOURCE = "source.json"
_DIGESTED = ("config.json", "model.safetensors", "tokenizer/tokenizer.json")


@dataclass(frozen=True)
class Wanted:
    """What to fetch: ``file`` is the checkpoint's path, by default that of the last training stage; a revision of None
    is the commit of an earlier run, else the newest; ``base_files`` is what is needed of the base."""

    file: str | None = None
    revision: str | None = None
    base_revision: str | None = None
    checkpoint: str = CHECKPOINTS
    base: str = BASE
    base_files: tuple[str, ...] = BASE_FILES
    last_stage: str = LAST_STAGE


@dataclass(frozen=True)
class Source:
    """Where a model came from, and the sha256 of its files by name."""

    checkpoint: str
    file: str
    checkpoint_commit: str
    base: str
    base_commit: str
    digests: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verified:
    """What was found in a model directory that loads: tensors and their numbers, bytes of weights, tokens known."""

    tensors: int
    parameters: int
    bytes: int
    dtype: str
    tokens: int


@dataclass(frozen=True)
class Watch:
    """Who looks on: ``step`` is told what begins, ``transfer`` bytes that are here and bytes in all."""

    step: Callable[[str], None] = no_step
    transfer: Callable[[int, int], None] = lambda _have, _total: None


def download(
    out: Path,
    wanted: Wanted = Wanted(),
    shape: X2SAMConfig | None = None,
    force: bool = False,
    keep: bool = False,
    watch: Watch = Watch(),
) -> tuple[Source, Verified]:
    """Fetches checkpoint and base model, writes the model directory ``out`` and verifies it.

    shape: sizes of the segmentation parts, by default those of the published model of the checkpoint's family
    keep:  leave the fetched files beside ``out`` after they were converted

    Raises DownloadError when the hub can't be reached, has no such file, or sends another; WeightsError when the files
    do not fit or what was written does not read back.
    """
    check_place(out, force)
    place, hub = files_place(out), Hub()
    with disk_errors(place):
        place.mkdir(parents=True, exist_ok=True)
    with _alone(place):
        watch.step("asking the hub")
        plan = planned(hub, out, wanted)
        transfer(hub, plan, place, watch)
        return _made(plan, out, shape, force, keep, watch)


def _made(
    plan: Plan, out: Path, shape: X2SAMConfig | None, force: bool, keep: bool, watch: Watch
) -> tuple[Source, Verified]:
    """The fetched files as a model directory, verified."""
    place = files_place(out)
    watch.step("converting")
    convert(place / "checkpoint" / plan.file, place / "base", out, shape, force, watch.step)
    watch.step("verifying")
    verified = verify(out)
    digests = {name: digest_of(out / name) for name in _DIGESTED}
    source = Source(
        plan.checkpoint.repository, plan.file, plan.checkpoint.commit, plan.base.repository, plan.base.commit, digests
    )
    _write_json(out / SOURCE, asdict(source))
    if not keep:
        shutil.rmtree(place)
    return source, verified


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Holds the place for this process: two that append to one file would spoil it. The lock ends with the process."""
    with (place / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(f"another download fills {place}; wait for it, or name another --out") from error
        yield


@dataclass(frozen=True)
class Plan:
    """The commits and files of one download; ``file`` is the checkpoint among them."""

    file: str
    checkpoint: Snapshot
    base: Snapshot

    def files(self) -> list[tuple[str, Snapshot, HubFile]]:
        """Folder, snapshot and file of everything to fetch, the small files of the base first."""
        taken = [("checkpoint", self.checkpoint, f) for f in self.checkpoint.files]
        taken += [("base", self.base, f) for f in self.base.files]
        return sorted(taken, key=lambda entry: entry[2].size)


def published(name: str) -> tuple[str, Published]:
    """The directory's name and the row of a published model, by its name here or on the hub.

    Raises DownloadError for another one.
    """
    plain = HUB_NAMES.get(name, name)
    if plain not in MODELS:
        raise DownloadError(f"no model {name!r} is published; there are {', '.join((*MODELS, *HUB_NAMES))}")
    return plain, MODELS[plain]


def files_place(out: Path) -> Path:
    """Where files are fetched to: beside the model, so that a rename is enough and the same disk is filled."""
    return out.with_name(f".{out.name}.download")


def planned(hub: Hub, out: Path, wanted: Wanted) -> Plan:
    """The commits of an earlier run where no other revision is asked for, else what the hub has now; written down."""
    place = files_place(out)
    written = _read_plan(place / "plan.json")
    source = _read_json(out / SOURCE)
    checkpoint, base = (
        _snapshot(hub, repository, revision, known, source.get(f"{name}_commit"))
        for name, repository, revision, known in (
            ("checkpoint", wanted.checkpoint, wanted.revision, written and written.checkpoint),
            ("base", wanted.base, wanted.base_revision, written and written.base),
        )
    )
    before = wanted.file or (written.file if written else None) or source.get("file")
    file = pick_checkpoint([f.path for f in checkpoint.files], before, wanted.checkpoint, wanted.last_stage)
    chosen = tuple(f for f in checkpoint.files if f.path == file)
    parts = tuple(f for f in base.files if "/" not in f.path and any(fnmatch(f.path, p) for p in wanted.base_files))
    plan = Plan(file, checkpoint, Snapshot(base.repository, base.commit, parts))
    if written and (written.checkpoint.commit, written.base.commit) != (checkpoint.commit, base.commit):
        for name, old, new in (("checkpoint", written.checkpoint, checkpoint), ("base", written.base, base)):
            if old.commit != new.commit:
                shutil.rmtree(place / name, ignore_errors=True)
    _write_json(place / "plan.json", asdict(plan))
    return Plan(file, Snapshot(checkpoint.repository, checkpoint.commit, chosen), plan.base)


def _snapshot(hub: Hub, repository: str, revision: str | None, known: Snapshot | None, commit: str | None) -> Snapshot:
    if revision is None and known is not None and known.repository == repository:
        return known  # nothing is asked, so what is here already can be used without a network
    return hub.snapshot(repository, revision or commit)


def transfer(hub: Hub, plan: Plan, place: Path, watch: Watch) -> None:
    """Fetches what is missing. Raises DownloadError, also where the disk is too small for it and the result."""
    files = plan.files()
    total = sum(file.size for _, _, file in files)
    _check_space(place, files, total)
    have = 0

    def count(further: int) -> None:
        nonlocal have
        have += further
        watch.transfer(have, total)

    for name, snapshot, file in files:
        watch.transfer(have, total)
        target = place / name / file.path
        cached = None if target.is_file() else hub.cached(snapshot, file)
        if cached is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(cached)
        hub.fetch(snapshot, file, place / name, count)


def _check_space(place: Path, files: Sequence[tuple[str, Snapshot, HubFile]], total: int) -> None:
    here = sum(path.stat().st_size for path in place.rglob("*") if path.is_file() and not path.is_symlink())
    largest = sum(file.size for name, _, file in files if name == "base") + max(file.size for _, _, file in files)
    needed, free = max(total - here, 0) + largest, shutil.disk_usage(place).free
    if needed > free:
        raise DownloadError(
            f"{needed / 1e9:.1f} GB are needed for the files and the model, {free / 1e9:.1f} GB are free in "
            f"{place.parent}; make room or name a place on another disk with --out"
        )


def pick_checkpoint(
    files: Sequence[str], wanted: str | None = None, repository: str = CHECKPOINTS, stage: str = LAST_STAGE
) -> str:
    """The weights of the last training stage among the files of a repository, or ``wanted`` if it is there.

    Raises DownloadError that lists the choices when it is not clear which one is meant.
    """
    weights = [f for f in files if f.rsplit("/", 1)[-1] in WEIGHT_FILES]
    if wanted is not None:
        found = [f for f in files if f == wanted]
    else:
        found = [f for f in weights if stage in f] or (weights if len(weights) == 1 else [])
    if len(found) != 1:
        asked = f"no file {wanted}" if wanted else "no single checkpoint of the last stage"
        listed = ", ".join(weights) or "no weights at all"
        raise DownloadError(f"{repository} has {asked}; choose one with --file: {listed}")
    return found[0]


def verify(directory: Path) -> Verified:
    """Loads a model directory strictly, as the engine does, and compares its files with ``source.json`` where that has
    their digests.

    Raises WeightsError that names every key that is missing, unexpected or misshapen, or the file that changed.
    """
    config, tensors = load_config(directory), load_tensors(directory / "model.safetensors")
    numbers = {str(t.dtype).removeprefix("torch.") for t in tensors.values()}
    count, parameters = len(tensors), sum(t.numel() for t in tensors.values())
    rows = len(tensors[EMBEDDING]) if EMBEDDING in tensors else 0
    from_state(config, tensors)
    tokenizer = load_tokenizer(directory / "tokenizer")
    # raises WeightsError when one of the marks is missing
    ChatEncoder(tokenizer, style=STYLES[config.family.chat])
    tokens = len(tokenizer)
    if tokens != rows:
        raise WeightsError(f"{directory} embeds {rows} tokens, its tokenizer has {tokens}; download it again")
    for name, digest in _read_json(directory / SOURCE).get("digests", {}).items():
        if digest_of(directory / name) != digest:
            raise WeightsError(f"{directory / name} is not the file that was written; download again with --force")
    size = (directory / "model.safetensors").stat().st_size
    return Verified(count, parameters, size, "+".join(sorted(numbers)), tokens)


def _read_plan(path: Path) -> Plan | None:
    written = _read_json(path)
    try:
        snapshots = (
            Snapshot(s["repository"], s["commit"], tuple(HubFile(**f) for f in s["files"]))
            for s in (written["checkpoint"], written["base"])
        )
        return Plan(written["file"], *snapshots)
    except (KeyError, TypeError):
        return None  # nothing, or of another version: begin anew


def _read_json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, value: dict) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
