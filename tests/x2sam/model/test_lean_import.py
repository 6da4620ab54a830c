"""What a process that answers annotators takes in of transformers and PyTorch, and that nothing is missing later."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
HEAVY = ("torch._dynamo", "sympy", "torch.distributed.tensor", "accelerate", "scipy.optimize", "pandas")
ANSWER = f"""
import json, sys
import numpy as np
from x2sam.inference.engine import Engine
from x2sam.structures import Point, Prompt
with Engine.load("nano") as engine:
    session = engine.open(np.random.default_rng(0).integers(0, 256, (2, 60, 80, 3), np.uint8))
    (mask,) = session.segment(Prompt(points=(Point(40, 30),)))
    session.segment(Prompt(text="the sign"))
    for _ in session.track([mask.object_id]):
        pass
heavy = [name for name in {HEAVY!r} if name in sys.modules]
import torch
print(json.dumps([heavy, hasattr(torch.compiler, "disable")]))
"""
COMPILE = """
import torch
from x2sam.model.vision_language import VisionLanguage
from transformers import masking_utils, modeling_utils
import torch._dynamo
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex
assert torch._dynamo.__file__ and isinstance(masking_utils.TransformGetItemToIndex(), TransformGetItemToIndex)
from transformers.utils import is_accelerate_available, is_scipy_available
assert is_accelerate_available() and is_scipy_available()
torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2))
"""


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_clicks_words_and_tracks_need_none_of_it():
    assert json.loads(run(ANSWER).splitlines()[-1]) == [[], True]


def test_whoever_needs_the_compiler_or_a_package_later_gets_it():
    run(COMPILE)


def test_a_compiler_that_is_there_stays():
    run("import torch._dynamo as before\n" + COMPILE + "\nassert torch._dynamo is before")
