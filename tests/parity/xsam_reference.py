"""The reference tensors of X-SAM, and its cases repeated with our code from the raw picture to the masks.

They lie beside those of X2SAM, in ``parity_xsam`` next to the directory that ``X2SAM_PARITY_DIR`` names, or where
``XSAM_PARITY_DIR`` says; a clone without them has a copy in ``tests/parity/data_xsam``.
"""

from __future__ import annotations

import json
import os
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from x2sam.config import X2SAMConfig
from x2sam.data.tasks import CategoryList, ItemKind, Task, find_task
from x2sam.data.tokenizer import load_tokenizer
from x2sam.inference.conversation import ChatEncoder, Query, Turn
from x2sam.inference.feature_cache import FeatureCache
from x2sam.inference.interpreter import Interpreter
from x2sam.inference.looking import Looking
from x2sam.inference.postprocess import PanopticLimits, Quirks, Rule, Segments, postprocess
from x2sam.inference.preprocess import region_masks
from x2sam.inference.query_masks import Prediction
from x2sam.layouts import LAYOUTS, SamEncoderConfig
from x2sam.model import region_sampler
from x2sam.model.key_layouts import convert_complete
from x2sam.model.mask_decoder import Condition, LevelPrediction
from x2sam.model.weights import from_state
from x2sam.model.xsam import XSAM
from x2sam.structures import Prompt
from x2sam.xsam_config import phi3_text, siglip_vision, square_views, xsam_tiny

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SMALL_COPY = HERE / "data_xsam"
LAYOUT = LAYOUTS["xsam-2025"]


def xsam_directory() -> Path | None:
    """The directory to read, None when there is none; fails when it is required and missing."""
    beside = Path(os.environ.get("X2SAM_PARITY_DIR") or "../shared/parity").with_name("parity_xsam")
    wanted = Path(os.environ.get("XSAM_PARITY_DIR") or beside)
    wanted = wanted if wanted.is_absolute() else ROOT / wanted
    if (wanted / "manifest.json").is_file():
        return wanted
    if os.environ.get("X2SAM_REQUIRE_PARITY") == "1":
        pytest.exit(f"X2SAM_REQUIRE_PARITY=1, but there are no reference tensors of X-SAM in {wanted}", returncode=1)
    return SMALL_COPY if (SMALL_COPY / "manifest.json").is_file() else None


@dataclass(frozen=True)
class XsamCase:
    parity: XsamParity
    manifest: dict

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def task(self) -> Task:
        return find_task({"imgconv": "chat"}.get(self.manifest["task"], self.manifest["task"]), "image")

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.parity.directory / self.manifest["file"])

    @property
    def drawn(self) -> np.ndarray | None:
        """Masks (N, H, W) of what was drawn."""
        found = self.parity.inputs.get(f"raw.{self.name}.vprompt_masks")
        return None if found is None else found.numpy()

    def query(self, rng: random.Random) -> Query:
        """From the raw prompt. The reference shuffles categories first, with the same numbers as everything behind."""
        prompt, regions = self.manifest["prompt"], 0 if self.drawn is None else len(self.drawn)
        phrases = (prompt,) if prompt else ()
        if self.task.items is ItemKind.CATEGORIES:
            names = CategoryList.of(Prompt(text=prompt)).names
            phrases = tuple(rng.sample(names, len(names)))
        return Query(phrases=phrases, regions=regions, question=prompt)

    def turn(self, interpreter: Interpreter) -> Turn:
        rng = random.Random(self.manifest["py_seed"])
        return interpreter.render(self.task, self.query(rng), rng)

    def rule(self, regions: Tensor | None) -> Rule:
        settings = self.manifest["post_kwargs"] or {}
        classes, stuff = self.manifest["classes"] or (), (self.manifest["prompt"] or "").startswith("sem:")
        return Rule(
            self.task,
            threshold=settings.get("threshold"),
            things=(not stuff,) * len(classes),
            region=None if regions is None else regions[0],
            regions=0 if regions is None else len(regions),
            quirks=Quirks.reference(),
            layout=LAYOUT,
        )


class XsamParity:
    def __init__(self, directory: Path):
        self.directory = directory
        self.manifest = self.json("manifest.json")
        self.config = self.json("tiny_config.json")
        self.cases = {case["name"]: XsamCase(self, case) for case in self.manifest["cases"]}

    def json(self, name: str) -> dict:
        return json.loads((self.directory / name).read_text(encoding="utf-8"))

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        return load_file(self.directory / "inputs.safetensors")

    @cached_property
    def state_dict(self) -> dict[str, Tensor]:
        return load_file(self.directory / "tiny_state_dict.safetensors")

    @cached_property
    def tokenizer(self):
        return load_tokenizer(self.directory / "tokenizer")

    @property
    def picture(self) -> np.ndarray:
        return self.inputs["raw.image"].numpy()

    def load(self, name: str) -> dict[str, Tensor]:
        return load_file(self.directory / name)

    def model(self) -> XSAM:
        return from_state(network_config(self.config), convert_complete(self.state_dict, LAYOUT))


def network_config(raw: dict) -> X2SAMConfig:
    """The reference's own configuration (``tiny_config.json``) in our words."""
    llm, sam, m2f, model = raw["llm"], raw["sam"], raw["m2f"], raw["model"]
    text = {key: llm[key] for key in phi3_text() if key in llm}
    sizes = xsam_tiny()
    return replace(
        sizes,
        text=phi3_text(**{**text, "vocab_size": raw["vocab"]}),
        vision=siglip_vision(**raw["vision"]),
        mask_encoder=SamEncoderConfig(
            image_size=sam["image_size"], patch=sam["patch_size"], width=sam["hidden_size"],
            blocks=sam["num_hidden_layers"], heads=sam["num_attention_heads"], ffn=sam["mlp_dim"],
            window=sam["window_size"], global_blocks=tuple(sam["global_attn_indexes"]),
            taps=tuple(model["seg_select_layers"][1:]), scales=tuple(model["connector_scale_factor"][1:]),
            region_tap=sam["num_hidden_layers"] - 1, connector_width=model["connector_hidden_dim"],
        ),
        pixel_decoder=replace(
            sizes.pixel_decoder, width=m2f["hidden_dim"], in_channels=tuple(m2f["feature_channels"]),
            heads=m2f["num_attention_heads"], layers=m2f["encoder_layers"], ffn=m2f["encoder_feedforward_dim"],
        ),
        mask_decoder=replace(
            sizes.mask_decoder, width=m2f["hidden_dim"], queries=m2f["num_queries"], layers=m2f["decoder_layers"] - 1,
            heads=m2f["num_attention_heads"], ffn=m2f["dim_feedforward"],
        ),
        preprocess=square_views(
            raw["siglip_proc"]["size"]["height"], raw["vision"]["patch_size"],
            raw["sam_proc"]["size"]["longest_edge"], pad=True,
        ),
    )  # fmt: skip


@dataclass(eq=False)
class Replayed:
    """What was heard on the way: ``sam`` states, the tower's ``vision`` state, what entered and left the language model
    (``calls``, ``layers``), region ``points``; then the answer."""

    model: XSAM
    drawn: np.ndarray | None = None
    rows: Tensor = field(default_factory=lambda: torch.empty(0))
    vision: Tensor | None = None
    calls: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    layers: dict[int, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    points: list[Tensor] = field(default_factory=list)
    regions: Tensor | None = None
    condition: Condition | None = None
    levels: list[LevelPrediction] = field(default_factory=list)
    segments: Segments | None = None
    looking: Looking | None = None

    @property
    def embeds(self) -> Tensor:
        return torch.cat([call[0] for call in self.calls], 1)

    @property
    def states(self) -> Tensor:
        return torch.cat([call[1] for call in self.calls], 1)

    @property
    def before_norm(self) -> Tensor:
        return torch.cat(self.layers[max(self.layers)], 1)


@contextmanager
def overheard(model: XSAM) -> Iterator[Replayed]:
    heard = Replayed(model)
    language, sample = model.vision_language, region_sampler.sample_points

    def noting(*args):
        heard.points.append(sample(*args))
        return heard.points[-1]

    hooks = [
        language.visual.register_forward_hook(lambda _m, _a, out: setattr(heard, "vision", out.last_hidden_state)),
        language.language.register_forward_hook(
            lambda _m, _a, kwargs, out: heard.calls.append((kwargs["inputs_embeds"], out.last_hidden_state)),
            with_kwargs=True,
        ),
        *(
            layer.register_forward_hook(lambda _m, _a, out, index=index: heard.layers[index].append(out))
            for index, layer in enumerate(language.language.layers)
        ),
    ]
    region_sampler.sample_points = noting
    try:
        yield heard
    finally:
        region_sampler.sample_points = sample
        for hook in hooks:
            hook.remove()


def interpreter_of(case: XsamCase, model: XSAM) -> Interpreter:
    """With or without the token that sequences begin with, as the case was run."""
    interpreter = Interpreter(model, case.parity.tokenizer)
    if not case.manifest["bos"]:
        style = replace(interpreter.encoder.style, bos="")
        interpreter.encoder = ChatEncoder(case.parity.tokenizer, interpreter.encoder.merge, style)
    return interpreter


@torch.no_grad()
def replay(case: XsamCase, model: XSAM, keep_prefix: bool = True, picture: np.ndarray | None = None) -> Replayed:
    picture = case.parity.picture if picture is None else picture
    interpreter = interpreter_of(case, model)
    looking = Looking(interpreter, FeatureCache(2**30), picture[None], case.name)
    with overheard(model) as heard:
        looked = interpreter.look(picture[None], case.task, keep_prefix, encoded=lambda: looking.encoded(0))
        regions = None
        if case.drawn is not None:
            regions = region_masks(case.drawn, looking.sizes(0))
            generator = torch.Generator().manual_seed(case.manifest["torch_seed"])
            heard.regions = model.region_tokens(looking.encoded(0).stage3, regions, generator)
        turn, share = case.turn(interpreter), case.task.shares_conditions
        heard.condition = interpreter.read(looked, turn, heard.regions, share=share, until_seg=False)
        heard.levels = model.step(looking.features(0), heard.condition, every_level=True)
    last = heard.levels[-1]
    prediction = Prediction(last.mask_logits[0], last.class_logits[0], looking.sizes(0))
    heard.segments = postprocess(case.rule(regions), prediction)
    heard.rows, heard.looking, heard.drawn = looked.visual.rows, looking, case.drawn
    return heard


def limits_of(settings: dict) -> PanopticLimits:
    return PanopticLimits(settings["threshold"], settings["mask_threshold"], settings["overlap_mask_area_threshold"])
