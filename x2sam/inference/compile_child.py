"""Compiles one part of the network for one layout, in a process of its own that nobody waits for.

The request comes as a line of JSON, the answer goes as one; the file that it names appears only where the code was
loaded here and gave what eager code gives. The weights are not needed: they are given to the code when it is loaded,
so that one file serves every version of a model. The process ends with whoever began it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from x2sam.config import X2SAMConfig
from x2sam.inference.compiling import differs
from x2sam.inference.native_code import NativeCode
from x2sam.inference.network import PARTS, Layout, numbers_for, weights_of
from x2sam.model.weights import build_empty
from x2sam.model.x2sam import X2SAM


def main() -> None:
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=end_with_whoever_asked, daemon=True).start()
    print(json.dumps(compile_part(request)), flush=True)


@torch.no_grad()
def compile_part(request: dict[str, Any]) -> dict[str, Any]:
    """Seconds that it took, and ``differs``: what is wrong with the code, empty where nothing is and ``out`` is there.

    ``request`` has ``config``, ``part``, ``layout``, ``dtype``, ``device``, ``threads``, ``out``.
    """
    began = time.monotonic()
    torch.set_num_threads(request["threads"])
    part, device, out = PARTS[request["part"]], request["device"], Path(request["out"])
    layout: Layout = tuple((tuple(shape), tuple(strides), kind) for shape, strides, kind in request["layout"])
    model = model_for(request["config"], getattr(torch, request["dtype"]), device, part.children)
    module, weights = part.module(model).eval(), weights_of(request["part"], model)
    given = (*weights.values(), *numbers_for(layout, device))
    program = torch.export.export(Lent(module, list(weights)), given, strict=False)
    made = torch._inductor.aot_compile(program.module(), given)
    code, fresh = NativeCode(Path(made), list(weights.values())), numbers_for(layout, device, seed=1)
    wrong = differs(code(fresh), list(module(*fresh)), part.steady)
    if not wrong:
        os.replace(made, out)
    return {"seconds": round(time.monotonic() - began, 1), "differs": wrong}


class Lent(nn.Module):
    """A part of the network that is lent its weights with each call, by the names that the model has for them; so they
    are no part of what is compiled."""

    def __init__(self, part: nn.Module, names: list[str]):
        super().__init__()
        self.part, self.names = (part,), names  # in a tuple, which hides its weights

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        lent = {f"model.{name}": tensor for name, tensor in zip(self.names, tensors, strict=False)}
        return torch.func.functional_call(self.part[0], lent, tensors[len(self.names) :])


def model_for(config: dict[str, Any], dtype: torch.dtype, device: str, children: tuple[str, ...]) -> X2SAM:
    """The named parts of a network with random weights; the others are left out, as they may be large."""
    model = build_empty(X2SAMConfig.from_dict(config)).eval().requires_grad_(False)
    for name in [name for name, _ in model.named_children() if name not in children]:
        delattr(model, name)
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in model.state_dict().items():
        if value.is_meta:
            value = torch.randn(value.shape, generator=generator) * 0.1
        state[name] = value.to(dtype) if value.is_floating_point() else value
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False).to(device)


def end_with_whoever_asked() -> None:
    """Ends this process and the compilers that it began when the other end of its input is gone."""
    while os.read(0, 4096):  # and not by sys.stdin, whose lock would keep this process from ending
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
