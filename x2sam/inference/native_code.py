"""A library that PyTorch's ahead-of-time compiler wrote, called through its C interface (``aoti_runtime/interface.h``).

Python's own way to such code, ``torch._inductor.aoti_load_package``, holds Python's lock while it runs: on a CPU nobody
else would be answered meanwhile. ``ctypes`` lets go of it. Nor is the compiler imported for this, which would take
seconds and a hundred megabytes.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

_POINTER_IN = ctypes.pythonapi.PyCapsule_GetPointer
_POINTER_IN.restype, _POINTER_IN.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_CAPSULE = ctypes.pythonapi.PyCapsule_New
_CAPSULE.restype, _CAPSULE.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_ANY = ctypes.c_void_p


class NativeCode:
    """The code in ``path``, working on ``weights``, which are not copied (:func:`x2sam.inference.network.weights_of`).

    One thread may call it at a time. Raises RuntimeError where the library can't be loaded, or fails.
    """

    def __init__(self, path: Path, weights: Sequence[Tensor]):
        device = weights[0].device
        self._weights = [weight.contiguous() for weight in weights]
        self._on_gpu = device.type == "cuda"
        try:
            self._library = ctypes.CDLL(str(path))
            self._container, count = _ANY(), ctypes.c_size_t()
            make = self._function("CreateWithDevice", _ANY, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_char_p)
            check(make(ctypes.byref(self._container), 1, str(device).encode(), None))
            weakref.finalize(self, self._function("Delete", _ANY), self._container).atexit = False
            tell = self._function("GetNumOutputs", _ANY, _ANY)
            check(tell(self._container, ctypes.byref(count)))
            tensors = (_ANY, ctypes.c_size_t)  # an array of their handles, and how many
            self._run = self._function("RunSingleThreaded", _ANY, *tensors, *tensors, _ANY, _ANY)
        except (OSError, AttributeError) as error:
            raise RuntimeError(f"the library can't be loaded: {error}") from error
        self._outputs = count.value

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Outputs for inputs of exactly the layout that this was compiled for."""
        given = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors([*self._weights, *tensors])
        inputs = (_ANY * len(given))(*(_POINTER_IN(one, None) for one in given))
        outputs = (_ANY * self._outputs)()
        stream = torch.cuda.current_stream().cuda_stream if self._on_gpu else None
        # the inputs are taken over by the callee, however it ends
        check(self._run(self._container, inputs, len(given), outputs, self._outputs, stream, None))
        made = [_CAPSULE(place, None, None) for place in outputs]
        return torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs(made)

    def _function(self, name: str, *arguments: type) -> ctypes._CFuncPtr:
        function = getattr(self._library, f"AOTInductorModelContainer{name}")
        function.restype, function.argtypes = ctypes.c_int32, arguments
        return function


def check(code: int) -> None:
    """Raises RuntimeError for the number of a failure; what it was the library wrote to the standard error."""
    if code:
        raise RuntimeError(f"compiled code failed ({code})")
