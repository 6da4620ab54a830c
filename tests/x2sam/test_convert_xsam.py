"""Checkpoints of X-SAM: recognised by their keys, converted, refused, fetched; and the published sizes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from stand_in_hub import StandInHub
from typer.testing import CliRunner

from x2sam import hub_files
from x2sam.cli import app
from x2sam.config import X2SAMConfig
from x2sam.download import MODELS
from x2sam.errors import WeightsError
from x2sam.inference.engine import Engine
from x2sam.layouts import LAYOUTS
from x2sam.model.key_layouts import convert_complete, recognise
from x2sam.model.weights import build_empty, load_tensors
from x2sam.structures import Point, Prompt
from x2sam.xsam_config import of_2026, xsam, xsam_2026, xsam_tiny

XSAM_COPY = Path(__file__).parents[1] / "parity" / "data_xsam"
STAGE = "s3_mixed_finetune/xsam_phi3/pytorch_model.bin"


@pytest.fixture(scope="module")
def stored() -> dict[str, torch.Tensor]:
    return load_file(XSAM_COPY / "tiny_state_dict.safetensors")


def in_2026(stored) -> dict[str, torch.Tensor]:
    renamed = {
        key.replace("visual_encoder.", "vision_encoder.").replace("segmentor.logit_scale", CLASS_SCALE): value
        for key, value in stored.items()
    }
    assert renamed.keys() != stored.keys() and len(renamed) == len(stored)
    return renamed


CLASS_SCALE = "segmentor.class_predictor.logit_scale"


@pytest.fixture
def place(tmp_path, monkeypatch, stored) -> Path:
    """A directory with ``pytorch_model.bin`` and ``base``, as the hub would have them, and the sizes that fit."""
    monkeypatch.chdir(tmp_path)
    torch.save({key: value.bfloat16() for key, value in stored.items()}, "pytorch_model.bin")
    Path("base").mkdir()
    for file in (XSAM_COPY / "tokenizer_base").iterdir():
        Path("base", file.name).write_bytes(file.read_bytes())
    text = {**xsam_tiny().text, "model_type": "phi3", "rope_scaling": None, "rope_theta": 10000.0}
    text.pop("rope_parameters")
    Path("base/config.json").write_text(json.dumps({**text, "vocab_size": 586}))
    wrong = xsam_tiny().to_dict()
    wrong["text"] = {**wrong["text"], "rms_norm_eps": 0.5, "sliding_window": 7, "vocab_size": 5}
    Path("shape.json").write_text(json.dumps(wrong))
    return tmp_path


def convert(*words: str, checkpoint: str = "pytorch_model.bin", sizes: tuple[str, ...] = ("--config", "shape.json")):
    return CliRunner().invoke(app, ["convert", checkpoint, "base", *sizes, "--out", "model", *words])


def told(outcome) -> str:
    assert outcome.exit_code == 1 and outcome.stdout == "", (outcome.output, outcome.exception)
    assert len(outcome.stderr.strip().splitlines()) == 1
    return outcome.stderr


def test_the_published_layout_is_recognised_and_converted(place, stored, tiny_xsam):
    outcome = convert("--json", "r.json")
    assert outcome.exit_code == 0, (outcome.output, outcome.exception)
    assert "pytorch_model.bin is X-SAM of 2025" in outcome.stdout
    found = json.loads(Path("r.json").read_text())
    assert (found["layout"], found["vocabulary"]) == ("xsam-2025", 568)
    model, _ = tiny_xsam
    written = load_tensors(Path("model/model.safetensors"))
    assert written.keys() == model.state_dict().keys()
    assert all(torch.equal(written[name], value.bfloat16()) for name, value in model.state_dict().items())
    # what nothing reads is left out: the tower's last block and end, the neck
    assert len(written) < len(stored) and sum(v.numel() for v in written.values()) < sum(
        v.numel() for v in stored.values()
    )
    config = X2SAMConfig.from_dict(json.loads(Path("model/config.json").read_text()))
    assert config.text == xsam_tiny().text and config.layout == "xsam-2025"  # sizes come from the base
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    with Engine.load("model", "cpu") as engine:
        (mask,) = engine.open(picture).segment(Prompt(points=(Point(20, 20),)))
        assert mask.mask.shape == (40, 60) and engine.version.startswith("xsam-tiny-")


def test_the_marks_get_the_ids_behind_the_base_vocabulary(place):
    assert convert().exit_code == 0
    with Engine.load("model", "cpu") as engine:
        ids = engine.interpreter.encoder.tokenizer.convert_tokens_to_ids(["<SEG>", "<p>", "</p>"])
    assert ids == [565, 566, 567]


@pytest.mark.parametrize("stated", [True, False])
def test_the_tokenizer_is_read_as_it_is_written(place, stated, tiny_xsam):
    """The published one names a class that would put its blank before the first piece only, and other ids come."""
    path = Path("base/tokenizer_config.json")
    known = json.loads(path.read_text())
    path.write_text(json.dumps({**known, "tokenizer_class": "LlamaTokenizer", "legacy": False}))
    if not stated:
        Path("base/config.json").unlink()
        Path("shape.json").write_text(json.dumps(xsam_tiny().to_dict()))
    assert convert().exit_code == 0
    text = "\nCan you highlight the <p>the red ball</p>?<|end|>\n<|assistant|>\n"
    with Engine.load("model", "cpu") as engine:
        ids = engine.interpreter.encoder._ids(text)
    assert ids == tiny_xsam[1].backend_tokenizer.encode(text, add_special_tokens=False).ids


def test_the_layout_of_2026_is_recognised_and_converted(place, stored):
    save_file(in_2026(stored), "model-2026.safetensors")
    Path("shape.json").write_text(json.dumps(of_2026(xsam_tiny()).to_dict()))
    outcome = convert(checkpoint="model-2026.safetensors")
    assert outcome.exit_code == 0 and "is X-SAM in the layout of 2026" in outcome.stdout, outcome.output
    config = X2SAMConfig.from_dict(json.loads(Path("model/config.json").read_text()))
    assert config.layout == "xsam-2026" and config.region.tokens == 64 and not config.preprocess.square_pad
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    with Engine.load("model", "cpu") as engine:
        assert engine.interpreter.encoder.style.after_picture == ""
        engine.open(picture).segment(Prompt(points=(Point(20, 20),)))


def test_a_file_that_fits_no_layout_is_refused_with_its_first_keys(place, stored):
    mixed = {**in_2026(stored), "segmentor.logit_scale": torch.zeros(1), "segmentor.a.b": torch.zeros(1)}
    torch.save(mixed, "pytorch_model.bin")
    problem = told(convert())
    assert "none of X2SAM, X-SAM of 2025, X-SAM in the layout of 2026" in problem
    assert "most like X-SAM in the layout of 2026; unexpected keys: segmentor.a.b, segmentor.logit_scale" in problem
    torch.save({f"layer.{n}.weight": torch.zeros(1) for n in range(9)}, "pytorch_model.bin")
    problem = told(convert())
    assert "most like" not in problem and "layer.0.weight, layer.1.weight" in problem and "and 4 more" in problem
    assert not Path("model").exists()


def test_another_language_model_is_refused_by_its_keys(stored):
    other = {key.replace("qkv_proj", "q_proj"): value for key, value in stored.items()}
    with pytest.raises(WeightsError, match=r"of 2025; unexpected keys: llm\.model\.layers\.0\.self_attn\.q_p"):
        recognise(other)


def test_every_key_that_is_missing_or_misshapen_is_named(place, stored):
    state = dict(stored)
    del state["seg_connector.model.1.model.2.weight"]
    state["llm.lm_head.weight"] = torch.zeros(567, 32)
    torch.save(state, "pytorch_model.bin")
    problem = told(convert())
    assert "missing mask_encoder.connector.model.1.model.2.weight" in problem
    assert "misshapen vision_language.head.weight: (567, 32) instead of (568, 32)" in problem


def test_sizes_of_another_family_and_other_bases_are_refused(place):
    assert "is X-SAM of 2025, but the sizes asked for are those of X2SAM" in told(convert(sizes=("--preset", "tiny")))
    Path("base/config.json").write_text('{"model_type": "qwen3_vl"}')
    assert "'qwen3_vl', not 'phi3'; use Phi-3-mini-4k-instruct" in told(convert())
    Path("base/config.json").unlink()
    Path("base/tokenizer.json").unlink()
    assert "download all of the Phi-3 base model" in told(convert())


def test_code_in_a_checkpoint_is_not_run(place):
    torch.save({"llm.model.norm.weight": Path("x")}, "pytorch_model.bin")
    assert "holds more than tensors" in told(convert())


def test_the_published_sizes():
    """Counted in the published model: 1356 tensors, 4.62 G numbers, of which some are read by nothing."""
    model = build_empty(xsam())
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    # of 1356: the tower's end (post norm 2, pooling head 11, last block 16), the neck 6 and a buffer are not kept
    assert len(shapes) == 1356 - 2 - 11 - 16 - 6 - 1
    expected = {
        "vision_language.language.embed_tokens.weight": (32014, 3072),
        "vision_language.head.weight": (32014, 3072),
        "vision_language.language.layers.31.self_attn.qkv_proj.weight": (9216, 3072),
        "vision_language.language.layers.31.mlp.gate_up_proj.weight": (16384, 3072),
        "vision_language.visual.embeddings.position_embedding.weight": (729, 1152),
        "vision_language.visual.encoder.layers.25.mlp.fc1.weight": (4304, 1152),
        "vision_language.visual_projector.model.0.weight": (3072, 1152),
        "mask_encoder.encoder.pos_embed": (1, 64, 64, 1024),
        "mask_encoder.encoder.layers.23.attn.rel_pos_h": (127, 64),
        "mask_encoder.encoder.layers.22.attn.rel_pos_h": (27, 64),
        "mask_encoder.region_projector.model.0.weight": (3072, 4096),
        "mask_encoder.connector.model.0.model.4.weight": (2048, 512, 1, 1),
        "mask_encoder.connector.model.2.model.4.weight": (512, 512, 1, 1),
        "pixel_decoder.input_projections.0.0.weight": (256, 2048, 1, 1),
        "pixel_decoder.adapter_1.0.weight": (256, 512, 1, 1),
        "mask_decoder.layers.8.fc1.weight": (2048, 256),
        "text_projector.model.0.weight": (256, 3072),
    }
    assert shapes.items() >= expected.items()
    assert not [name for name in shapes if "text_cross_attn" in name or "memory" in name]
    language = model.vision_language.language.config
    assert (language.sliding_window, language.num_attention_heads, language.rms_norm_eps) == (2047, 32, 1e-5)
    millions = {
        "vision_language.language": 3821 - 32014 * 3072 / 1e6, "mask_encoder.connector": 10.5,
        "mask_encoder.region_projector": 22.0, "vision_language.visual_projector": 13.0, "pixel_decoder": 6.1,
        "mask_decoder": 14.5, "text_projector": 0.85,
    }  # fmt: skip
    for part, count in millions.items():
        found = sum(p.numel() for name, p in model.named_parameters() if name.startswith(part + ".")) / 1e6
        assert found == pytest.approx(count, rel=0.02), part
    assert xsam_2026().mask_encoder == xsam().mask_encoder


def test_keys_of_the_published_size_have_their_place(stored):
    """The tiny reference has the published names; renamed to the full depth every one is used once."""
    names = convert_complete(stored, LAYOUTS["xsam-2025"])
    tiny = build_empty(xsam_tiny())
    assert names.keys() == tiny.state_dict().keys()
    wide = build_empty(replace(xsam(), text={**xsam().text, "num_hidden_layers": 2}))
    depthless = lambda keys: {".".join("#" if p.isdigit() else p for p in key.split(".")) for key in keys}  # noqa: E731
    assert depthless(wide.state_dict()) == depthless(names)


def test_a_checkpoint_of_x2sam_is_one(tiny_model):
    """Its own network's names, so that a file that was written anew is known too."""
    assert recognise(["segmentor.no_memory_embedding", "mlm_projector.model.0.weight"]).name == "x2sam"


@pytest.fixture
def hub(place, monkeypatch):
    row = MODELS["x-sam"]
    hub = StandInHub()
    weights = Path("pytorch_model.bin").read_bytes()
    hub.push(row.checkpoint, {"s1_seg_finetune/a/pytorch_model.bin": b"old", STAGE: weights})
    base = {path.name: path.read_bytes() for path in Path("base").iterdir()}
    hub.push(row.base, base | {"model-00001-of-00002.safetensors": b"not needed" * 1000, "modeling_phi3.py": b"code"})
    monkeypatch.setattr(hub_files, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv("X2SAM_HOME", str(place / "home"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with hub.run():
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.mark.parametrize("name", ["x-sam", "hao9610/X-SAM"])
def test_the_published_model_is_fetched(name, hub):
    """One file of weights; of the base the tokenizer and sizes, not its weights nor its code."""
    outcome = CliRunner().invoke(app, ["download", name, "--config", "shape.json"])
    assert outcome.exit_code == 0, (outcome.output, outcome.exception)
    source = json.loads(Path("home/x-sam/source.json").read_text())
    assert (source["file"], source["base"]) == (STAGE, "microsoft/Phi-3-mini-4k-instruct")
    fetched = {sent.path.rsplit("/", 1)[-1] for sent in hub.sent}
    assert "tokenizer.json" in fetched and not fetched & {"modeling_phi3.py", "model-00001-of-00002.safetensors"}
    with Engine.load("hao9610/X-SAM", "cpu") as engine:
        assert not engine.remembers
    assert CliRunner().invoke(app, ["download", name, "--check"]).exit_code == 0


def test_a_model_that_nobody_published_is_refused(hub):
    outcome = CliRunner().invoke(app, ["download", "y-sam"])
    assert outcome.exit_code == 1 and "there are x2sam-4b, x-sam, hao9610/X2SAM, hao9610/X-SAM" in outcome.stderr
