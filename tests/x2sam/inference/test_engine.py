"""The engine: what is computed once, what is never mixed up, and models that come from a directory."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from x2sam import placement
from x2sam.data.tasks import find_task
from x2sam.errors import DeviceError, FramesError, WeightsError
from x2sam.inference.engine import Engine
from x2sam.inference.scheduler import Priority
from x2sam.model.weights import save_pretrained
from x2sam.placement import digest_of, find_device, find_model
from x2sam.structures import Point, Prompt

SIZE = (60, 80)
FIRST, SECOND = Prompt(points=(Point(20, 20),)), Prompt(points=(Point(20, 20), Point(60, 40, False)))


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


@contextmanager
def counted(model):
    """How often the parts that depend on the picture alone run, and how many positions the language model reads."""
    seen: Counter = Counter()
    parts = {
        "vision tower": model.vision_language.visual,
        "mask encoder": model.mask_encoder.encoder.backbone,
        "pixel decoder": model.pixel_decoder,
        "mask decoder": model.mask_decoder,
    }
    count = lambda name: lambda *_: seen.update([name])  # noqa: E731
    hooks = [part.register_forward_hook(count(name)) for name, part in parts.items()]

    def positions(_module, _args, kwargs, _output):
        seen["positions"] += kwargs["inputs_embeds"].shape[1]

    hooks.append(model.vision_language.language.register_forward_hook(positions, with_kwargs=True))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@pytest.fixture(params=["published", "sketching"])
def model(request, tiny_model, sketching_model):
    return tiny_model if request.param == "published" else sketching_model


@pytest.fixture
def engine(build_engine, model) -> Engine:
    return build_engine(model, snap=False, generate_limit=6)


ONCE = ("vision tower", "mask encoder", "pixel decoder")


def test_a_second_click_computes_nothing_of_the_picture_again(engine, model):
    session = engine.open(picture())
    with counted(model) as first:
        session.segment(FIRST)
    assert [first[part] for part in ONCE] == [1, 1, 1]
    looked = session.looking.looked(find_task("intseg", "image"), 0)
    with counted(model) as second:
        session.segment(SECOND)
    assert [second[part] for part in ONCE] == [0, 0, 0] and second["mask decoder"] == 1
    # the question is read anew where it has to be, but never what stands before it
    assert second["positions"] <= first["positions"] - looked.prefix_length


def test_words_after_a_click_and_clicks_after_words(engine, model):
    session = engine.open(picture())
    session.segment(Prompt(text="the red circle"))
    with counted(model) as seen:
        session.segment(FIRST)
        session.segment(Prompt(text="the grey square"))
        session.segment(Prompt(text="describe"))
        session.chat("why?")
    assert [seen[part] for part in ONCE] == [0, 0, 0]


def test_sessions_on_the_same_key_share_the_picture(engine, model):
    engine.open(picture(), key="task 7").segment(FIRST)
    with counted(model) as seen:
        other = engine.open(picture(), key="task 7")
        other.segment(FIRST)
        other.segment(SECOND)
    assert [seen[part] for part in ONCE] == [0, 0, 0]


def test_sessions_without_a_key_share_nothing(engine, model):
    engine.open(picture()).segment(FIRST)
    with counted(model) as seen:
        engine.open(picture(1)).segment(FIRST)
    assert [seen[part] for part in ONCE] == [1, 1, 1]


def test_features_that_do_not_fit_are_made_again(build_engine, model):
    kept, forgetful = (build_engine(model, snap=False, cache_bytes=size) for size in (2**28, 0))
    expected = kept.open(picture()).segment(SECOND)
    session = forgetful.open(picture())
    with counted(model) as seen:
        found = session.segment(SECOND)
    assert seen["pixel decoder"] >= 2 and len(forgetful.cache) == 0
    assert np.array_equal(found[0].mask, expected[0].mask) and found[0].score == expected[0].score


def test_a_track_makes_each_frame_once_for_all_objects(engine, model):
    clip = np.stack([picture(i) for i in range(5)])
    session = engine.open(clip)
    names = [session.segment(Prompt(points=(Point(x, 20),)), 0)[0].object_id for x in (10, 40, 70)]
    with counted(model) as seen:
        assert len(list(session.track(names))) == 5
    # models that follow objects also need the first frame as the later ones look
    assert (seen["mask encoder"], seen["pixel decoder"]) == (4, 5 if model.config.memory.sketch else 4)
    assert seen["vision tower"] == 0 and seen["positions"] == 0


def test_only_short_clips_keep_what_is_walked_again(engine, model, monkeypatch):
    clip = np.stack([picture(i) for i in range(12)])
    session = engine.open(clip)
    name = session.segment(FIRST, 0)[0].object_id
    before = engine.cache.used
    with monkeypatch.context() as patch:
        patch.setattr("x2sam.inference.looking.WALKED_AGAIN", 11)
        first = list(session.track([name]))
        assert engine.cache.used == before
    list(session.track([name]))
    assert engine.cache.used > before
    with counted(model) as seen:
        again = list(session.track([name]))
    # models that follow objects also need the first frame as the later ones look
    assert (seen["mask encoder"], seen["pixel decoder"]) == (0, 1 if model.config.memory.sketch else 0)
    assert [one.masks[0].mask.tobytes() for one in again] == [one.masks[0].mask.tobytes() for one in first]


def test_equal_requests_give_equal_bytes(build_engine, model):
    """Two engines, different histories, and somebody else drawing random numbers."""
    prompts = (SECOND, Prompt(text="the red circle"), Prompt(boxes=((5, 5, 30, 40),)), Prompt(text="describe"))
    one, other = (build_engine(model, generate_limit=6) for _ in range(2))
    session = one.open(picture())
    expected = [session.segment(p) for p in prompts]
    for prompt, masks in reversed(list(zip(prompts, expected, strict=True))):
        torch.manual_seed(int(prompt.text is None))
        again = other.open(picture()).segment(prompt)
        assert [m.mask.tobytes() for m in again] == [m.mask.tobytes() for m in masks]
        assert [(m.score, m.phrase) for m in again] == [(m.score, m.phrase) for m in masks]


def test_random_numbers_of_others_are_left_alone(engine):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    engine.open(picture()).segment(FIRST)
    assert torch.equal(torch.rand(3), expected)


def test_everything_runs_without_gradients_on_one_thread(engine):
    inside = engine.run(lambda: (torch.is_inference_mode_enabled(), threading.current_thread().name))
    assert inside == (True, "x2sam-device")


def test_an_engine_can_be_used_as_a_context(tiny_model, tiny_tokenizer):
    with Engine(tiny_model, tiny_tokenizer) as engine:
        thread = engine.scheduler._thread
        assert thread.is_alive()
    assert not thread.is_alive()


def test_media_without_frames(engine, tmp_path):
    with pytest.raises(FramesError, match="no frames"):
        engine.open(np.zeros((0, 4, 4, 3), np.uint8))
    with pytest.raises(FramesError, match=r"no file nothing\.png"):
        engine.open(tmp_path / "nothing.png")


# models in directories


@pytest.fixture
def directory(model, tiny_tokenizer, tmp_path):
    save_pretrained(model, tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model" / "tokenizer")
    return tmp_path / "model"


def test_a_loaded_engine_gives_the_same_masks(engine, directory):
    with Engine.load(directory, device="cpu", snap=False, generate_limit=6) as loaded:
        assert loaded.device == "cpu" and loaded.name == "tiny"
        assert loaded.version == f"tiny-{digest_of(directory / 'model.safetensors')}"
        assert loaded.model.no_memory_embedding.dtype == torch.float32
        for prompt in (SECOND, Prompt(text="the red circle"), Prompt(categories=("cat", "dog"))):
            found, expected = loaded.open(picture()).segment(prompt), engine.open(picture()).segment(prompt)
            assert [m.mask.tobytes() for m in found] == [m.mask.tobytes() for m in expected]
            assert [m.score for m in found] == [m.score for m in expected]
        assert loaded.open(picture()).chat("why?") == engine.open(picture()).chat("why?")


def test_half_precision_answers_every_prompt(directory, engine):
    """bfloat16, as on a GPU: every prompt and a track get through, and the logits stay near those of float32."""
    logits = {}
    with Engine.load(directory, device="cpu", dtype="bfloat16", generate_limit=6) as half:
        assert half.model.no_memory_embedding.dtype == torch.bfloat16
        for name, runner in (("half", half), ("full", engine)):
            hook = runner.model.mask_decoder.register_forward_hook(
                lambda _m, _a, out, name=name: logits.update({name: out[-1].mask_logits.float()})
            )
            runner.open(picture()).segment(FIRST)
            hook.remove()
        session = half.open(np.stack([picture(i) for i in range(4)]))
        for prompt in (SECOND, Prompt(text="a cat"), Prompt(text="sem: sky, road"), Prompt(text="describe")):
            for mask in session.segment(prompt, 1):
                assert mask.mask.shape == SIZE and 0 <= mask.score <= 1
        name = session.segment(FIRST, 1)[0].object_id
        session.correct(2, name, np.ones(SIZE, bool))
        for mode in ("fifo", "per-object", "pinned"):
            assert len(list(session.track([name], direction="both", memory=mode))) == 4
        assert type(session.chat("why?")[0]) is str
    assert float((logits["half"] - logits["full"]).abs().mean()) < 0.1 * float(logits["full"].abs().mean())


def test_models_are_found_by_name_and_by_path(directory, tmp_path, monkeypatch):
    monkeypatch.setenv("X2SAM_HOME", str(tmp_path))
    monkeypatch.setattr(placement, "EMBEDDED", tmp_path / "embedded")
    assert find_model(str(directory)) == directory
    assert find_model("model") == tmp_path / "model"
    (tmp_path / "embedded").mkdir()
    directory.rename(tmp_path / "embedded" / "nano")
    assert find_model("nano") == tmp_path / "embedded" / "nano"
    assert find_model("auto") == tmp_path / "embedded" / "nano"


def test_the_published_model_is_taken_where_it_is_and_a_gpu_is(directory, tmp_path, monkeypatch):
    monkeypatch.setenv("X2SAM_HOME", str(tmp_path))
    monkeypatch.setattr(placement, "EMBEDDED", tmp_path / "embedded")
    directory.rename(tmp_path / "x2sam-4b")
    assert find_model("x2sam-4b") == find_model("hao9610/X2SAM") == tmp_path / "x2sam-4b"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_model("auto") == tmp_path / "x2sam-4b"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_model("auto") == tmp_path / "embedded" / "nano"


@pytest.mark.parametrize("name", ["x2sam-4b", "hao9610/X2SAM", "no/such/model"])
def test_a_model_that_is_not_there(name, tmp_path, monkeypatch):
    monkeypatch.setenv("X2SAM_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=f"no model '{name}'; use 'nano', a directory .* download"):
        find_model(name)


def test_devices_that_are_there_and_those_that_are_not(directory, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert find_device("auto") == find_device("cpu") == "cpu"
    for name in ("cuda", "cuda:1", "mps", "abacus"):
        with pytest.raises(DeviceError, match=f"{name}.*use cpu"):
            find_device(name)
    with pytest.raises(DeviceError, match="cuda is not there"):
        Engine.load(directory, device="cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("cuda:1") == "cuda:1"
    with pytest.raises(DeviceError, match="cuda:2"):
        find_device("cuda:2")


def test_a_device_that_is_lost(build_engine):
    """After such an error a GPU refuses everything that this process asks of it."""
    engine = build_engine(snap=False)
    failures = [torch.AcceleratorError("CUDA error: out of memory\nmore"), None]
    hook = engine.model.mask_decoder.register_forward_hook(lambda *_: raised(failures.pop()) if failures else None)
    session = engine.open(picture())
    assert session.segment(FIRST) and not engine.vitals.lost
    failures += [torch.AcceleratorError("CUDA error: device-side assert triggered\nmore")]
    for _ in range(2):
        with pytest.raises(DeviceError, match="starts itself again"):
            session.segment(SECOND)
    hook.remove()
    assert engine.vitals.lost and not engine.vitals.responsive
    with pytest.raises(DeviceError):
        engine.open(picture(1)).segment(FIRST)


def raised(error):
    if error is not None:
        raise error


def test_versions_follow_the_weights(directory, build_tiny, tmp_path):
    save_pretrained(build_tiny(seed=1), tmp_path / "other")
    digests = [digest_of(d / "model.safetensors") for d in (directory, tmp_path / "other")]
    assert digests[0] != digests[1] and all(len(d) == 8 for d in digests)


def test_versions_of_very_large_weights_count_their_size(tmp_path, monkeypatch):
    monkeypatch.setattr(placement, "DIGESTED_BYTES", 10)
    digests = []
    for content in (b"0123456789", b"0123456789a", b"0123456789ab"):
        (tmp_path / "weights").write_bytes(content)
        digests.append(digest_of(tmp_path / "weights"))
    assert len(set(digests)) == 3


# pictures by content


class Pages:
    """Pages that tell digests of their content."""

    def __init__(self, *seeds: int):
        self.seeds = seeds

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: int) -> np.ndarray:
        return picture(self.seeds[index])

    def digest(self, index: int) -> str:
        return f"digest {self.seeds[index]}"


def test_the_same_picture_under_other_names_is_known(engine, model):
    engine.open(Pages(1), key="task 1").segment(FIRST)
    with counted(model) as seen:
        engine.open(Pages(1), key="task 2").segment(FIRST)
        engine.open(Pages(1)).segment(SECOND)
    assert [seen[part] for part in ONCE] == [0, 0, 0]


def test_a_page_of_a_clip_that_is_known_from_elsewhere(engine, model):
    engine.open(Pages(1), key="a picture").segment(FIRST)
    with counted(model) as seen:
        engine.open(Pages(0, 1, 2), key="a clip").segment(FIRST, 1)
        engine.open(Pages(2, 0, 1), key="another clip").segment(FIRST, 2)
    assert (seen["mask encoder"], seen["pixel decoder"]) == (0, 0)


def test_other_pictures_are_not_mixed_up(engine, model):
    engine.open(Pages(1, 2), key="clip").segment(FIRST, 0)
    with counted(model) as seen:
        engine.open(Pages(1, 3), key="clip").segment(FIRST, 1)
    assert [seen[part] for part in ONCE] == [1, 1, 1]


def test_closing_keeps_what_has_a_name(engine, model):
    for frames, key in ((Pages(1), "task 7"), (picture(2), "task 8"), (Pages(3), None)):
        session = engine.open(frames, key=key)
        session.segment(FIRST)
        session.close()
        with counted(model) as seen:
            engine.open(frames, key=key).segment(FIRST)
        assert [seen[part] for part in ONCE] == [0, 0, 0], "the budget decides what goes"
    before = engine.cache.used
    nameless = engine.open(picture(4))
    nameless.segment(FIRST)
    nameless.close()
    assert engine.cache.used == before, "nobody can come back to it"


@pytest.mark.parametrize("frames", [Pages(1), Pages(0, 1, 2)], ids=["picture", "clip"])
def test_a_prepared_picture_has_nothing_left_to_encode(engine, model, frames):
    prepared = engine.open(frames)
    assert prepared.prepare() == engine.cache.used > 0
    prepared.close()
    with counted(model) as seen:
        engine.open(frames).segment(FIRST)
    assert [seen[part] for part in ONCE] == [0, 0, 0] and seen["mask decoder"] == 1


def test_preparing_gives_way_to_clicks(engine, monkeypatch):
    seen, run = [], engine.scheduler.run
    monkeypatch.setattr(engine.scheduler, "run", lambda job, how, *rest: seen.append(how) or run(job, how, *rest))
    engine.open(Pages(1)).prepare()
    assert seen == [Priority.BATCH] * 3, "piece by piece, each behind everything else"
