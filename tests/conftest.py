"""What the tests of the model and of the engine share: the tiny network with random weights. ``workplace.py`` adds what
the tests with a real Label Studio share.

Torch is imported where it is needed only, so that the backend's tests start without it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

XSAM_COPY = Path(__file__).parent / "parity" / "data_xsam"

pytest_plugins = ["workplace", "video_place"]


WITH_LABEL_STUDIO = ("tests/browser/", "tests/integration/")


def pytest_collection_modifyitems(config, items):
    """Where two processes share the tests (``make test``), those with a real Label Studio come first: one of the two
    has them all."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith(WITH_LABEL_STUDIO))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """The other process has the rest, file by file, so that what the tests of a file share is made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByNeed(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "label-studio" if nodeid.startswith(WITH_LABEL_STUDIO) else nodeid.split("::", 1)[0]

    return ByNeed(config, log)


@pytest.fixture(autouse=True)
def log_streams() -> Iterator[None]:
    """Commands that run inside a test set up logging; their handlers would write to streams that are closed by then."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    for handler in list(root.handlers):
        if type(handler) is logging.StreamHandler and handler not in before:
            root.removeHandler(handler)


@pytest.fixture(scope="session")
def tiny_tokenizer():
    from x2sam.data.tokenizer import build_tokenizer

    return build_tokenizer(["a red circle on the left of two grey squares"], 640)


@pytest.fixture(scope="session")
def build_tiny(tiny_tokenizer) -> Callable:
    """(seed, changes of the memory's settings) to a tiny network whose every path matters: no weight is zero."""

    def build(seed: int = 0, **memory):
        import torch

        from x2sam.config import tiny
        from x2sam.model.x2sam import X2SAM
        from x2sam.training.initialise import initialise

        config = tiny(vocab_size=len(tiny_tokenizer))
        config = dataclasses.replace(config, memory=dataclasses.replace(config.memory, **memory))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = X2SAM(config)
            initialise(model)
            for layer in model.mask_decoder.layers:
                torch.nn.init.xavier_uniform_(layer.text_cross_attn.out_proj.weight)
        return model.eval().requires_grad_(False)

    return build


@pytest.fixture(scope="session")
def tiny_model(build_tiny):
    """The published layout: clicks are heard through region tokens only. Shared; don't change it."""
    return build_tiny()


@pytest.fixture(scope="session")
def sketching_model(build_tiny):
    """The layout of ``nano``: clicks are painted and read as memory, which is dense. Shared; don't change it."""
    return build_tiny(sketch=True, dense=True, levels=(0,))


@pytest.fixture
def build_engine(tiny_model, tiny_tokenizer) -> Iterator[Callable]:
    """(model, settings) to an engine that is closed when the test ends."""
    from x2sam.inference.engine import Engine

    built = []

    def build(model=tiny_model, **settings):
        built.append(Engine(model, tiny_tokenizer, "tiny", **settings))
        return built[-1]

    yield build
    for engine in built:
        engine.close()


@pytest.fixture
def tiny_engine(build_engine):
    return build_engine()


@pytest.fixture(scope="session")
def tiny_xsam():
    """X-SAM's network with the weights of its reference tensors, and its tokenizer. Shared; don't change it."""
    from x2sam.data.tokenizer import load_tokenizer
    from x2sam.model.key_layouts import convert_complete, recognise
    from x2sam.model.weights import from_state, load_tensors
    from x2sam.xsam_config import xsam_tiny

    state = load_tensors(XSAM_COPY / "tiny_state_dict.safetensors")
    model = from_state(xsam_tiny(), convert_complete(state, recognise(state)))
    return model, load_tokenizer(XSAM_COPY / "tokenizer")


@pytest.fixture
def xsam_engine(tiny_xsam) -> Iterator:
    from x2sam.inference.engine import Engine

    with Engine(*tiny_xsam, "xsam-tiny") as engine:
        yield engine
