"""The reference tensors: where they are, and one way to read them.

``X2SAM_PARITY_DIR`` names the directory (default ``../shared/parity`` beside the repository). Without it the small copy
in ``tests/parity/data`` is used, unless ``X2SAM_REQUIRE_PARITY=1``: then a missing directory fails.

Fixtures: ``parity`` (the directory), ``parity_case`` (every case in turn), ``parity_run`` (every case and run in turn).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def parity_directory() -> Path | None:
    """The directory to read, None when there is none; fails when it is required and missing."""
    wanted = Path(os.environ.get("X2SAM_PARITY_DIR") or "../shared/parity")
    wanted = wanted if wanted.is_absolute() else ROOT / wanted
    if (wanted / "manifest.json").is_file():
        return wanted
    if os.environ.get("X2SAM_REQUIRE_PARITY") == "1":
        pytest.exit(f"X2SAM_REQUIRE_PARITY=1, but there are no reference tensors in {wanted}", returncode=1)
    return HERE / "data" if (HERE / "data" / "manifest.json").is_file() else None


@dataclass(frozen=True)
class Run:
    """One pass of the reference: ``tensor`` (answer given) or ``predict`` (answer generated)."""

    case: Case
    mode: str

    @property
    def manifest(self) -> dict:
        return self.case.manifest["runs"][self.mode]

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.case.parity.directory / self.manifest["file"])

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.tensors[key]

    def __contains__(self, key: str) -> bool:
        return key in self.tensors


@dataclass(frozen=True)
class Case:
    parity: Parity
    manifest: dict

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def modality(self) -> str:
        return "video" if self.manifest["task"].startswith("vid_") else "image"

    @cached_property
    def inputs(self) -> dict[str, torch.Tensor]:
        return load_file(self.parity.directory / f"{self.name}.inputs.safetensors")

    @cached_property
    def runs(self) -> dict[str, Run]:
        return {mode: Run(self, mode) for mode in self.manifest["runs"]}

    @property
    def grid(self) -> tuple[int, int, int]:
        """(time, height, width) of the visual patches."""
        predict = self.runs["predict"]
        key = "pre.image_grid_thw" if self.modality == "image" else "pre.video_grid_thw"
        return tuple(predict[key][0].tolist())


class Parity:
    def __init__(self, directory: Path):
        self.directory = directory

    def json(self, name: str) -> dict:
        return json.loads((self.directory / name).read_text(encoding="utf-8"))

    @cached_property
    def manifest(self) -> dict:
        return self.json("manifest.json")

    @cached_property
    def config(self) -> dict:
        return self.json(self.manifest["config"])

    @property
    def tolerances(self) -> dict:
        return self.manifest["tolerances"]

    @cached_property
    def cases(self) -> dict[str, Case]:
        return {case["name"]: Case(self, case) for case in self.manifest["cases"]}

    @cached_property
    def tokenizer(self):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.directory / "tokenizer")

    @cached_property
    def state_dict(self) -> dict[str, torch.Tensor]:
        return load_file(self.directory / self.manifest["state_dict"])

    def load(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.directory / name)


def pytest_configure(config: pytest.Config) -> None:
    directory = parity_directory()
    config.x2sam_parity = Parity(directory) if directory else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parity: Parity | None = metafunc.config.x2sam_parity
    missing = [pytest.param(None, marks=pytest.mark.skip(reason="no reference tensors; set X2SAM_PARITY_DIR"))]
    if "parity_case" in metafunc.fixturenames:
        cases = list(parity.cases.values()) if parity else missing
        metafunc.parametrize("parity_case", cases, ids=[case.name for case in cases] if parity else None)
    if "parity_run" in metafunc.fixturenames:
        runs = [run for case in parity.cases.values() for run in case.runs.values()] if parity else missing
        metafunc.parametrize("parity_run", runs, ids=[f"{r.case.name}-{r.mode}" for r in runs] if parity else None)


@pytest.fixture(scope="session")
def parity(pytestconfig: pytest.Config) -> Parity:
    if pytestconfig.x2sam_parity is None:
        pytest.skip("no reference tensors; set X2SAM_PARITY_DIR")
    return pytestconfig.x2sam_parity
