"""Walks over frames: what each memory mode writes and reads, and what a person's masks are worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from x2sam.data.tasks import find_task
from x2sam.inference.feature_cache import FeatureCache
from x2sam.inference.interpreter import Interpreter
from x2sam.inference.looking import Looking
from x2sam.inference.postprocess import Rule
from x2sam.inference.preprocess import FrameSizes
from x2sam.inference.walk import MODES, Anchor, ObjectTrack, Tracked, Walker, guidance_of
from x2sam.model.mask_memory import MaskMemory
from x2sam.model.memory_encoder import blend_masks

SIZE = (48, 64)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(params=["published", "sketching"])
def model(request, tiny_model, sketching_model):
    return tiny_model if request.param == "published" else sketching_model


def looking_at(model, tokenizer, count: int = 9, seed: int = 0) -> Looking:
    frames = np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), np.uint8)
    return Looking(Interpreter(model, tokenizer), FeatureCache(2**28), frames, "clip")


@pytest.fixture
def clip(model, tiny_tokenizer) -> Looking:
    return looking_at(model, tiny_tokenizer)


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def tracked(clip: Looking, name: str, anchors: dict[int, np.ndarray], seed: int = 0) -> Tracked:
    model = clip.model
    states = torch.randn(1, 4, model.config.text["hidden_size"], generator=torch.Generator().manual_seed(seed))
    condition = model.condition(states, torch.tensor([[0, 0, 0, -1]]), torch.tensor([[-1, -1, -1, 0]]))
    region = torch.zeros(64, 64, dtype=torch.int64)
    region[10:30, 10:30] = 1
    rule = Rule(find_task("objseg", "video"), region=region)
    return Tracked(name, condition, rule, {f: Anchor(f, m, 0.9) for f, m in anchors.items()})


def step(clip: Looking, track: ObjectTrack, frame: int, first: bool) -> dict:
    plain = clip.later_features(frame)
    features = clip.features(frame) if first else plain
    return track.advance(features, clip.sizes(frame), frame, clip.picture(frame), plain)


def walked(clip: Looking, objects, mode: str, frames=range(9)) -> dict[int, dict]:
    track = ObjectTrack(clip.model, objects, mode)
    return {f: step(clip, track, f, f == frames[0]) for f in frames}


def test_an_unknown_mode_is_named(clip):
    with pytest.raises(ValueError, match="fifo, per-object, pinned, fast"):
        ObjectTrack(clip.model, [], "everything")


@pytest.mark.parametrize("mode", MODES)
def test_masks_that_are_known_come_back_untouched(clip, mode):
    anchors = {0: box(4, 4, 20, 30), 3: box(30, 8, 60, 40)}
    copies = {f: m.copy() for f, m in anchors.items()}
    found = walked(clip, [tracked(clip, "a", anchors)], mode)
    for frame, mask in copies.items():
        assert np.array_equal(found[frame]["a"][0], mask) and found[frame]["a"][1] == 0.9
        assert np.array_equal(anchors[frame], mask)
    assert all(found[f]["a"][0].shape == SIZE and found[f]["a"][0].dtype == bool for f in found)


@pytest.mark.parametrize("mode", MODES)
def test_an_object_appears_with_its_own_prompt(clip, mode):
    """Also in the shared bank, where others are remembered already."""
    objects = [tracked(clip, "a", {0: box(4, 4, 20, 30)}), tracked(clip, "b", {4: box(30, 8, 60, 40)}, seed=1)]
    found = walked(clip, objects, mode)
    assert [sorted(found[f]) for f in range(9)] == [["a"]] * 4 + [["a", "b"]] * 5


@pytest.mark.parametrize("mode", MODES)
def test_tracks_are_repeatable(clip, mode):
    objects = [tracked(clip, "a", {0: box(4, 4, 20, 30)}), tracked(clip, "b", {4: box(30, 8, 60, 40)}, seed=1)]
    first, second = (walked(clip, objects, mode) for _ in range(2))
    for frame in range(9):
        for name in first[frame]:
            assert np.array_equal(first[frame][name][0], second[frame][name][0])
            assert first[frame][name][1] == second[frame][name][1]


def test_banks_of_their_own_keep_objects_apart(tiny_model, tiny_tokenizer):
    """What a neighbour does is nothing to an object, except where both share one bank."""
    clip = looking_at(tiny_model, tiny_tokenizer)
    a, near = tracked(clip, "a", {0: box(4, 4, 20, 30)}), tracked(clip, "b", {0: box(30, 8, 60, 40)}, seed=1)
    written: dict[str, list[list[torch.Tensor]]] = {}
    for mode in MODES:
        written[mode] = []
        for objects in ([a], [a, near]):
            track = ObjectTrack(clip.model, objects, mode)
            for f in range(3):
                step(clip, track, f, f == 0)
            track.write()
            written[mode].append([e.levels[0] for e in track.walkers["a"].memory.read()])
    # Objects are written together, so sums may be rounded another way.
    alike = lambda x, y: torch.allclose(x, y, atol=1e-5)  # noqa: E731
    same = {m: all(alike(x, y) for x, y in zip(*written[m], strict=True)) for m in MODES}
    assert same == {"fifo": False, "per-object": True, "pinned": True, "fast": True}


def held(track: ObjectTrack, name: str) -> list[int]:
    track.write()
    return [entry.time for entry in track.walkers[name].memory.read()]


def test_what_each_mode_keeps(clip):
    """Five frames; pinned ones beside them."""
    anchors = {0: box(4, 4, 20, 30), 2: box(6, 4, 22, 30)}
    kept = {}
    for mode in MODES:
        track = ObjectTrack(clip.model, [tracked(clip, "a", anchors)], mode)
        for frame in range(9):
            step(clip, track, frame, frame == 0)
        kept[mode] = held(track, "a")
    fifo, pinned = [4, 5, 6, 7, 8], [0, 2, 4, 5, 6, 7, 8]
    assert kept == {"fifo": fifo, "per-object": fifo, "pinned": pinned, "fast": pinned}


def test_what_no_frame_reads_is_not_written(clip, monkeypatch):
    """A frame is written when the next one comes, so the last one never is."""
    written = []
    remember = ObjectTrack._remember
    monkeypatch.setattr(
        ObjectTrack, "_remember", lambda self, f, frame, *rest: written.append(frame) or remember(self, f, frame, *rest)
    )
    walked(clip, [tracked(clip, "a", {0: box(4, 4, 20, 30)})], "pinned", range(4))
    assert written == [0, 1, 2]


def test_objects_in_one_bank_read_it_once(tiny_model, tiny_tokenizer):
    """The frame reads the memory once for both, and each gets what it would get if it were asked alone."""
    clip = looking_at(tiny_model, tiny_tokenizer)
    objects = [tracked(clip, name, {0: box(4, 4, 20, 30)}, seed) for seed, name in enumerate("ab")]
    track = ObjectTrack(clip.model, objects, "fifo")
    step(clip, track, 0, True)
    track.write()
    reads: list[int] = []
    hook = tiny_model.memory_attention.register_forward_hook(lambda _m, _i, out: reads.append(len(out[0])))
    try:
        together = track._levels(clip.later_features(1), 1, ["a", "b"])
    finally:
        hook.remove()
    assert reads == [1]
    for name in "ab":
        alone = track.walkers[name].step(clip.later_features(1), 1)
        assert torch.allclose(together[name].mask_logits, alone.mask_logits, atol=1e-4)


def test_one_bank_holds_one_entry_per_frame(clip):
    objects = [tracked(clip, "a", {0: box(4, 4, 20, 30)}), tracked(clip, "b", {0: box(30, 8, 60, 40)}, seed=1)]
    track = ObjectTrack(clip.model, objects, "fifo")
    for frame in range(3):
        step(clip, track, frame, frame == 0)
    assert track.walkers["a"].memory is track.walkers["b"].memory
    assert held(track, "a") == [0, 1, 2]


def test_followed_objects_exclude_one_another(sketching_model, tiny_tokenizer):
    """Only in the default mode; two prompts for the very same place would give the same mask twice."""
    clip = looking_at(sketching_model, tiny_tokenizer)
    twins = [tracked(clip, name, {0: box(10, 10, 40, 40)}) for name in "ab"]
    together = {mode: walked(clip, twins, mode, range(2))[1] for mode in ("per-object", "pinned")}
    assert np.array_equal(together["per-object"]["a"][0], together["per-object"]["b"][0])
    assert not (together["pinned"]["a"][0] & together["pinned"]["b"][0]).any()


def test_the_papers_way_writes_the_blend_of_all_queries(clip):
    thing = tracked(clip, "a", {0: box(4, 4, 20, 30)})
    track = ObjectTrack(clip.model, [thing], "fifo")
    step(clip, track, 0, True)
    track.write()
    features = clip.later_features(1)
    level = clip.model.step(features, thing.condition, track.walkers["a"].memory.read(), 1)[-1]
    expected = clip.model.remember(features, blend_masks(level), 1)
    track.advance(features, clip.sizes(1), 1, clip.picture(1))
    track.write()
    assert torch.equal(track.walkers["a"].memory.read()[-1].levels[0], expected.levels[0])


def test_what_is_remembered_matters(clip):
    """Two prompts for the same words: later logits differ, because the memory does."""
    features, thing = clip.later_features(1), tracked(clip, "a", {})
    grid = tuple(features.mask_features.shape[-2:])
    logits = []
    for mask in (box(0, 0, 20, 20), box(30, 20, 64, 48)):
        walker = Walker(clip.model, thing.condition, thing.rule, MaskMemory())
        walker.remember(clip.features(0), guidance_of(mask, clip.sizes(0), grid), 0)
        logits.append(walker.look(features, clip.sizes(1), 1)[1].mask_logits)
    assert not torch.allclose(*logits, atol=1e-4)


@pytest.mark.parametrize(
    ("start", "by_a_person", "unlearned"),
    [(box(2, 2, 20, 20), False, True), (box(2, 2, 20, 20), True, False), (box(40, 20, 60, 44), False, False)],
    ids=["missed", "missed, but a person drew the start", "met"],
)
def test_a_start_that_led_astray_is_unlearned(sketching_model, tiny_tokenizer, start, by_a_person, unlearned):
    """The first mask is the model's own answer to a click; on the second frame a person draws the object."""
    still = looking_at(sketching_model, tiny_tokenizer, count=1).frames[0]
    clip = looking_at(sketching_model, tiny_tokenizer, count=3)
    clip.frames[:] = still  # nothing moves, so the mask is carried to where it was
    thing = tracked(clip, "a", {})
    thing.anchors = {0: Anchor(0, start, locked=by_a_person), 1: Anchor(1, box(40, 20, 60, 44), locked=True)}
    track = ObjectTrack(sketching_model, [thing], "pinned")
    step(clip, track, 0, True)
    before = track.followers["a"]
    step(clip, track, 1, False)
    assert (track.followers["a"] is not before) == unlearned
    fresh = tracked(clip, "a", {})
    fresh.anchors = {1: thing.anchors[1]}
    begun_there = ObjectTrack(sketching_model, [fresh], "pinned")
    step(clip, begun_there, 1, True)
    alike = step(clip, track, 2, False)["a"][0] == step(clip, begun_there, 2, False)["a"][0]
    assert alike.all() or not unlearned


def test_what_a_person_drew_first_is_never_unlearned(sketching_model, tiny_tokenizer):
    """A person's mask, then a prompt's, then a person's that the walk has missed."""
    clip = looking_at(sketching_model, tiny_tokenizer, count=3)
    thing = tracked(clip, "a", {1: box(2, 2, 20, 20)})
    thing.anchors |= {k: Anchor(k, box(*at), locked=True) for k, at in ((0, (2, 2, 20, 20)), (2, (40, 20, 60, 44)))}
    track = ObjectTrack(sketching_model, [thing], "pinned")
    step(clip, track, 0, True)
    before = track.followers["a"]
    for frame in (1, 2):
        step(clip, track, frame, False)
    assert track.followers["a"] is before


def test_looking_remembers_nothing(clip):
    thing = tracked(clip, "a", {})
    walker = Walker(clip.model, thing.condition, thing.rule, MaskMemory())
    walker.look(clip.features(0), clip.sizes(0), 0)
    assert len(walker.memory) == 0


def test_a_picture_is_a_clip_of_one_frame(model, tiny_tokenizer):
    """The same features, logits and masks for one condition, whether or not frames follow."""
    clip = looking_at(model, tiny_tokenizer)
    picture = Looking(clip.interpreter, FeatureCache(0), clip.frames[:1], "picture")
    thing = tracked(clip, "a", {})
    found = []
    for looking in (clip, picture):
        walker = Walker(model, thing.condition, thing.rule, MaskMemory())
        found.append(walker.look(looking.features(0), looking.sizes(0), 0))
    assert torch.equal(found[0][1].mask_logits, found[1][1].mask_logits)
    assert np.array_equal(found[0][0].masks, found[1][0].masks)


def test_guidance_is_the_share_of_each_cell():
    mask = np.zeros((40, 60), bool)
    mask[:20, :15] = True
    sizes = FrameSizes((64, 64), (64, 64), (40, 60))
    found = guidance_of(mask, sizes, (16, 16))[0, 0]
    assert found.shape == (16, 16)
    assert torch.allclose(found[:8, :4], torch.ones(8, 4)) and float(found.sum()) == pytest.approx(32)
    assert float(found[8:].max()) == 0 and float(found[:, 4:].max()) == 0


def test_guidance_leaves_the_padding_empty():
    sizes = FrameSizes((64, 64), (32, 64), (50, 100))
    found = guidance_of(np.ones((50, 100), bool), sizes, (16, 16))[0, 0]
    assert float(found[:8].min()) == 1 and float(found[8:].max()) == 0


def test_objects_that_are_asked_for_together_are_answered_as_alone(sketching_model, tiny_tokenizer):
    """Also where one was out of sight, or began later: then its memory or sketch differs, and it goes by itself."""
    clip = looking_at(sketching_model, tiny_tokenizer)
    things = [
        tracked(clip, "a", {0: box(4, 4, 20, 30)}),
        tracked(clip, "b", {0: box(30, 8, 60, 40)}, seed=1),
        tracked(clip, "c", {2: box(10, 20, 30, 40)}, seed=2),
        tracked(clip, "d", {0: box(40, 4, 50, 20), 3: np.zeros(SIZE, bool)}, seed=3),
    ]
    together = walked(clip, things, "per-object", range(6))
    calls = []
    step = type(sketching_model).step
    for thing in things:
        alone = walked(clip, [thing], "per-object", range(6))
        for frame in range(6):
            if thing.object_id in together[frame]:
                found, expected = together[frame][thing.object_id], alone[frame][thing.object_id]
                assert (found[0] != expected[0]).mean() < 2e-3 and found[1] == pytest.approx(expected[1], abs=1e-4)

    def counted(self, features, condition, *rest, **more):
        calls.append(condition.seg.shape[0])
        return step(self, features, condition, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(sketching_model), "step", counted)
        walked(clip, things, "per-object", range(2))
    assert calls == [3]


def test_followed_masks_have_a_doubt(sketching_model, tiny_tokenizer):
    clip = looking_at(sketching_model, tiny_tokenizer)
    track = ObjectTrack(clip.model, [tracked(clip, "a", {0: box(4, 4, 20, 30), 2: box(6, 4, 22, 30)})], "pinned")
    doubts = []
    for frame in range(4):
        step(clip, track, frame, frame == 0)
        doubts.append({name: rating.doubt for name, rating in track.ratings.items()})
    assert doubts[0] == {} == doubts[2] and 0 < doubts[1]["a"] < 1 and 0 < doubts[3]["a"] < 1
