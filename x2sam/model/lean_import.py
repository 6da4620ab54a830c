"""Networks of transformers, imported without what only serves other purposes of that library.

While its modules are imported they ask which packages are there, and take all of them in: tensors of many machines and
accelerate (to load in parts), SciPy's optimisers (losses of other networks), psutil. And they mark functions for
PyTorch's compiler, which is not used here and imports more than everything else together. All that would be half of the
time until a model is ready.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import transformers.utils as library
import transformers.utils.import_utils as questions

_UNUSED = (
    "is_accelerate_available", "is_psutil_available", "is_scipy_available", "is_torch_distributed_available",
    "is_torch_flex_attn_available",
)  # fmt: skip
_COMPILER = "torch._dynamo"
_TRANSFORM = f"{_COMPILER}._trace_wrapped_higher_order_op"


@contextmanager
def lean_import() -> Iterator[None]:
    """What of transformers is imported meanwhile takes these packages as missing, from then on, and its functions go
    unmarked. Where the compiler is there already nothing of it is replaced."""
    before = [(module, name, getattr(module, name)) for module in (library, questions) for name in _UNUSED]
    replaced = _COMPILER not in sys.modules
    try:
        for module, name, _ in before:
            setattr(module, name, lambda: False)
        if replaced:
            torch._dynamo = sys.modules[_COMPILER] = _Unmarked(_COMPILER)
            sys.modules[_TRANSFORM] = ModuleType(_TRANSFORM)
            sys.modules[_TRANSFORM].TransformGetItemToIndex = _index_transform
        yield
    finally:
        for module, name, was in before:
            setattr(module, name, was)
        if replaced:
            del torch._dynamo, sys.modules[_COMPILER], sys.modules[_TRANSFORM]


class _Unmarked(ModuleType):
    """Stands for the compiler: each of its marks leaves a function as it is."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda function=None, *_, **__: (lambda later: later) if function is None else function


def _index_transform() -> Any:
    """The compiler's class of that name, imported when one is made."""
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    return TransformGetItemToIndex()
