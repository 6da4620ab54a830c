"""The reference tensors: where they are, and one way to read them.

``X2SAM_PARITY_DIR`` names the directory (default ``../shared/parity`` beside the repository). Without it the small copy
in ``tests/parity/data`` is used, unless ``X2SAM_REQUIRE_PARITY=1``: then a missing directory fails.

Fixtures: ``parity`` (the directory), ``parity_case`` (every case in turn; :data:`CASES` has narrower choices),
``parity_run`` (every case and run in turn),
``reference_config`` and ``reference_model`` (the reference's network in our classes, LoRA merged), ``replays`` (a run
to its repetition with our code).

With ``-v`` the summary ends with the largest deviation of every stage that was compared.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
import torch
from reference_replay import Replay, replay
from safetensors.torch import load_file
from xsam_reference import Replayed, XsamCase, XsamParity, xsam_directory
from xsam_reference import replay as replay_xsam

from x2sam.config import (
    LoraSettings,
    MaskDecoderConfig,
    MaskEncoderConfig,
    MemoryConfig,
    PixelDecoderConfig,
    RegionConfig,
    X2SAMConfig,
)
from x2sam.inference.preprocess import PreprocessConfig
from x2sam.model.weights import convert_state, from_state
from x2sam.model.x2sam import X2SAM

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SMALL_COPY = HERE / "data"


def parity_directory() -> Path | None:
    """The directory to read, None when there is none; fails when it is required and missing."""
    wanted = Path(os.environ.get("X2SAM_PARITY_DIR") or "../shared/parity")
    wanted = wanted if wanted.is_absolute() else ROOT / wanted
    if (wanted / "manifest.json").is_file():
        return wanted
    if os.environ.get("X2SAM_REQUIRE_PARITY") == "1":
        pytest.exit(f"X2SAM_REQUIRE_PARITY=1, but there are no reference tensors in {wanted}", returncode=1)
    return SMALL_COPY if (SMALL_COPY / "manifest.json").is_file() else None


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


# fixtures that take a case in turn, and which cases
CASES: dict[str, Callable[[Case], bool]] = {
    "parity_case": lambda case: True,
    "segmenting_case": lambda case: "tensor" in case.runs,
    "clip_case": lambda case: "tensor" in case.runs and case.modality == "video",
    "region_case": lambda case: case.manifest["task"].endswith(("vgdseg", "intseg", "objseg")),
    "unforced_case": lambda case: "free_greedy_ids_max12" in case.manifest,
}


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
        """Tensors of one of the files that stand beside the cases; the small copy need not have it."""
        if self.directory == SMALL_COPY and not (SMALL_COPY / name).is_file():
            pytest.skip(f"the small copy has no {name}; set X2SAM_PARITY_DIR")
        return load_file(self.directory / name)


def network_config(raw: dict) -> X2SAMConfig:
    """The reference's own configuration (``tiny_config.json``) in our words, without any dropout."""
    vlm, sam, m2f = raw["vlm"], raw["sam2"], raw["m2f"]
    backbone = sam["vision_config"]["backbone_config"]
    rope = {**vlm["text_config"]["rope_scaling"], "rope_theta": vlm["text_config"]["rope_theta"]}
    text = {k: v for k, v in vlm["text_config"].items() if k not in ("rope_scaling", "rope_theta")}
    width = m2f["hidden_dim"]
    return X2SAMConfig(
        name="reference",
        text={**text, "vocab_size": raw["vocab_len"], "rope_parameters": rope},
        vision=vlm["vision_config"],
        mask_encoder=MaskEncoderConfig(
            image_size=raw["image_size"],
            widths=tuple(backbone["embed_dim_per_stage"]),
            blocks=tuple(backbone["blocks_per_stage"]),
            heads=tuple(backbone["num_attention_heads_per_stage"]),
            windows=tuple(backbone["window_size_per_stage"]),
            global_blocks=tuple(backbone["global_attention_blocks"]),
            position_grid=tuple(backbone["window_positional_embedding_background_size"]),
            fpn_width=sam["vision_config"]["fpn_hidden_size"],
        ),
        pixel_decoder=PixelDecoderConfig(
            width=width,
            in_channels=tuple(m2f["feature_channels"]),
            heads=m2f["num_attention_heads"],
            layers=m2f["encoder_layers"],
            ffn=m2f["encoder_feedforward_dim"],
        ),
        mask_decoder=MaskDecoderConfig(
            width, m2f["num_queries"], m2f["decoder_layers"] - 1, m2f["num_attention_heads"], m2f["dim_feedforward"]
        ),
        memory=MemoryConfig(
            width=width,
            slots=sam["num_maskmem"],
            attention_layers=sam["memory_attention_num_layers"],
            ffn=sam["memory_attention_feed_forward_hidden_size"],
            dropout=0.0,
            fuser_layers=sam["memory_fuser_num_layers"],
            fuser_inner=sam["memory_fuser_intermediate_dim"],
        ),
        region=RegionConfig(raw["sampler"]["num_sample_point"], raw["sampler"]["pooling_kernel_size"]),
        lora=LoraSettings(raw["lora"]["r"], raw["lora"]["lora_alpha"], 0.0),
        preprocess=PreprocessConfig.from_processors(raw["img_proc"], raw["vid_proc"], raw["extra_proc"]),
    )


def pytest_configure(config: pytest.Config) -> None:
    directory = parity_directory()
    config.x2sam_parity = Parity(directory) if directory else None
    directory = xsam_directory()
    config.xsam_parity = XsamParity(directory) if directory else None
    config.x2sam_deviations = {}


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if config.x2sam_deviations and config.get_verbosity() >= 0:
        terminalreporter.section("largest deviation from the reference")
        for stage, value in config.x2sam_deviations.items():
            terminalreporter.write_line(f"{stage:32} {value:.2e}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parity: Parity | None = metafunc.config.x2sam_parity
    missing = [pytest.param(None, marks=pytest.mark.skip(reason="no reference tensors; set X2SAM_PARITY_DIR"))]
    for name, chosen in CASES.items():
        if name in metafunc.fixturenames:
            cases = [case for case in parity.cases.values() if chosen(case)] if parity else missing
            metafunc.parametrize(name, cases, ids=[case.name for case in cases] if parity else None)
    if "xsam_case" in metafunc.fixturenames:
        xsam = metafunc.config.xsam_parity
        cases = [case for case in xsam.cases.values() if case.task.segments] if xsam else missing
        metafunc.parametrize("xsam_case", cases, ids=[case.name for case in cases] if xsam else None)
    if "parity_run" in metafunc.fixturenames:
        runs = [run for case in parity.cases.values() for run in case.runs.values()] if parity else missing
        metafunc.parametrize("parity_run", runs, ids=[f"{r.case.name}-{r.mode}" for r in runs] if parity else None)


@pytest.fixture(scope="session")
def parity(pytestconfig: pytest.Config) -> Parity:
    if pytestconfig.x2sam_parity is None:
        pytest.skip("no reference tensors; set X2SAM_PARITY_DIR")
    return pytestconfig.x2sam_parity


@pytest.fixture(scope="session")
def reference_config(parity: Parity) -> X2SAMConfig:
    return network_config(parity.config)


@pytest.fixture(scope="session")
def reference_model(parity: Parity, reference_config: X2SAMConfig) -> X2SAM:
    """From the reference's complete state; frozen, in eval mode, shared by all tests."""
    return from_state(reference_config, convert_state(parity.state_dict, {}, reference_config.lora))


@pytest.fixture(scope="session")
def deviations(pytestconfig: pytest.Config) -> dict[str, float]:
    """Stage to the largest absolute difference seen so far."""
    return pytestconfig.x2sam_deviations


@pytest.fixture(scope="session")
def replays(parity: Parity, reference_model: X2SAM) -> Callable[[Run], Replay]:
    """Every run is repeated once for all tests."""
    done: dict[tuple[str, str], Replay] = {}

    def of(run: Run) -> Replay:
        key = (run.case.name, run.mode)
        if key not in done:
            done[key] = replay(run, reference_model, parity.tokenizer)
        return done[key]

    return of


@pytest.fixture(scope="session")
def xsam_parity(pytestconfig: pytest.Config) -> XsamParity:
    if pytestconfig.xsam_parity is None:
        pytest.skip("no reference tensors of X-SAM; set X2SAM_PARITY_DIR")
    return pytestconfig.xsam_parity


@pytest.fixture(scope="session")
def xsam_model(xsam_parity: XsamParity):
    """The reference's network, frozen, in eval mode, shared by all tests."""
    return xsam_parity.model()


@pytest.fixture(scope="session")
def xsam_replays(xsam_model) -> Callable[[XsamCase], Replayed]:
    """Every case is repeated once for all tests."""
    done: dict[str, Replayed] = {}

    def of(case: XsamCase) -> Replayed:
        if case.name not in done:
            done[case.name] = replay_xsam(case, xsam_model)
        return done[case.name]

    return of
