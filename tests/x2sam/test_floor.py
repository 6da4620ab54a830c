"""Operations of every stage: torch's counter on tensors without data against formulas, and against a real run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from x2sam import floor
from x2sam.cli import app
from x2sam.config import mid, nano, tiny, x2sam_4b
from x2sam.floor import REQUESTS, Stage, Sum, digits, markdown, numbers_of, stages, vision

PAGE = Path(__file__).parents[2] / "x2sam" / "inference" / "SPEED.md"


def counted(work) -> int:
    # the plain kernel: the counter knows no fused one of a CPU
    with FlopCounterMode(display=False) as counter, torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def found() -> dict[str, Stage]:
    return {stage.name: stage for stage in stages("nano")}


def test_the_towers_formula_is_what_the_counter_sees(tiny_model):
    patches = 4 * 8
    real = counted(lambda: tiny_model.vision_language.see(torch.zeros(patches, 1536), torch.tensor([[1, 4, 8]])))
    assert vision(tiny(), 1, 4, 8) == real


def test_words_cost_two_operations_a_weight_and_their_attention(found):
    """Per token and layer 2 x (192 x 192 + 2 x 192 x 96 + 192 x 192 + 3 x 192 x 384), and 4 x 192 for each token that
    is seen: the projections, the feed-forward, and queries times keys and weights times values. nano looks at a
    picture of 128 x 224 as 4 x 7 rows."""
    layer = 2 * (2 * 192 * 192 + 2 * 192 * 96 + 3 * 192 * 384)
    rows, words = 28, 8 + floor.WORDS_BEHIND
    assert found["words, picture"].operations == 3 * (rows * layer + 4 * 192 * rows * rows)
    assert found["words, question"].operations == 3 * (words * layer + 4 * 192 * words * (rows + words))


def test_memory_attention_is_quadratic_in_its_finest_map():
    """4B: for each of 4 layers and each of 3 maps of n cells, 8 projections... of n or of 5 x 4,096 kept tokens, the
    feed-forward 2 x 256 x 2,048, and attention 4 x 256 x n x (n + 20,480)."""
    kept, total = 5 * 4096, 0
    for cells in (4096, 16384, 65536):
        projections = 2 * 256 * 256 * (4 * cells + 2 * cells + 2 * kept)
        total += 4 * (projections + 4 * 256 * 2048 * cells + 4 * 256 * cells * (cells + kept))
    four = {stage.name: stage for stage in floor.Counting(x2sam_4b(), 2)._memory(features_of(x2sam_4b()))}
    assert four["memory, read"].operations == total
    coarsest = 4 * (2 * 256 * 256 * (6 * 4096 + 2 * kept) + 4 * 256 * 2048 * 4096 + 4 * 256 * 4096 * (4096 + kept))
    assert four["memory, read, fast"].operations == 3 * coarsest


def features_of(config):
    side, width = config.mask_encoder.image_size, config.width
    maps = [floor.empty(1, width, side // stride, side // stride) for stride in (16, 8, 4)]
    return floor.FrameFeatures(maps, maps[-1])


def test_keys_and_values_are_two_projections_a_layer(found):
    """nano: layer by layer the maps of 16, 32 and 64 cells along a side, 6 layers of width 96."""
    cells = 2 * (16 * 16 + 32 * 32 + 64 * 64)
    assert found["keys and values"].operations == 2 * 2 * cells * 96 * 96


def test_bytes_are_those_of_weights_and_tensors(found, tiny_model):
    """The region map: its weights, 16 x 16 x 128 numbers in, 8 x 8 x 192 out, of 4 bytes each."""
    projector = floor.Counting(nano(), 4).model.mask_encoder.region_projector
    assert found["region map"].bytes == 4 * (numbers_of(projector) + 16 * 16 * 128 + 8 * 8 * 192)


def test_a_real_run_does_what_was_counted(tiny_model):
    """The encoder and the pixel decoder of the tiny network with numbers in them; sampling is added by formula."""
    known = {stage.name: stage for stage in stages("tiny")}
    side = tiny_model.config.mask_encoder.image_size
    with torch.inference_mode():
        encoded = tiny_model.encode(torch.zeros(1, 3, side, side))
    assert counted(lambda: tiny_model.encode(torch.zeros(1, 3, side, side))) == known["mask encoder"].operations
    decoded = counted(lambda: tiny_model.decode_pixels(encoded, first=True))
    assert decoded + floor.sampling(tiny()) == known["pixel decoder"].operations


def test_requests_are_sums_of_stages():
    one, two = Stage("a", 3e12, 1.0), Stage("b", 1.0, 4.8e12)
    both = Sum("both", {"a": 2, "b": 1})
    assert both.of([one, two]).operations == 6e12 + 1 and both.of([one, two]).bytes == 2 + 4.8e12
    assert both.seconds([one, two]) == pytest.approx(2 * 3e12 / 989e12 + 1.0)
    names = {stage.name for stage in stages("tiny")}
    assert all(set(request.parts) <= names for request in REQUESTS)


def test_three_digits_count():
    assert [digits(n) for n in (0.0, 12345.6, 0.0123456, 1.005e9)] == [0.0, 12300.0, 0.0123, 1_000_000_000]


def test_the_page_has_what_the_command_prints(tmp_path):
    outcome = CliRunner().invoke(app, ["bench", "--floor", "--json", str(tmp_path / "floor.json")])
    assert outcome.exit_code == 0, outcome.output
    rows = json.loads((tmp_path / "floor.json").read_text())["stages"]
    assert {row["size"] for row in rows} == {"nano", "mid", "4b"} and mid().name == "mid"
    assert markdown(rows) == outcome.stdout.strip()
    assert outcome.stdout.strip() in PAGE.read_text(encoding="utf-8")
