"""A session: prompts of every kind, clicks one by one, objects, tracks and corrections, and what is refused."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch

from x2sam.data.tasks import find_task
from x2sam.errors import CancelledError, FramesError, PromptError
from x2sam.structures import Mask, Point, Prompt

SIZE = (60, 80)
PLUS, MINUS, MORE = Point(20, 20), Point(60, 40, positive=False), Point(30, 35)
CLICK = Prompt(points=(PLUS,))


def clip(count: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), np.uint8)


def picture(seed: int = 0) -> np.ndarray:
    return clip(1, seed)[0]


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.fixture(params=["published", "sketching"])
def engine(request, build_engine, tiny_model, sketching_model):
    """Without the last light step, so that masks are the network's own."""
    model = tiny_model if request.param == "published" else sketching_model
    return build_engine(model, snap=False, generate_limit=8)


@pytest.fixture
def video(engine):
    return engine.open(clip())


def assert_equal(found: list[Mask], expected: list[Mask]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a.mask, b.mask) and a.score == b.score and a.phrase == b.phrase


# prompts

KINDS = {
    "click": CLICK,
    "clicks": Prompt(points=(PLUS, MINUS, MORE)),
    "box": Prompt(boxes=((5, 5, 40, 50),)),
    "stroke": Prompt(strokes=(np.array([[5.0, 5.0], [40.0, 30.0]]),)),
    "mask": Prompt(masks=(box(4, 4, 30, 30),)),
    "phrase": Prompt(text="the red circle"),
    "question": Prompt(text="what can warm clothes?"),
    "names": Prompt(categories=("cat", "dog")),
    "things and stuff": Prompt(text="ins: cat; sem: sky"),
    "stuff": Prompt(text="sem: sky, road"),
    "description": Prompt(text="describe"),
    "all like this": Prompt(task="vgdseg", points=(PLUS, MORE)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3])
def test_every_kind_of_prompt(engine, kind, count):
    """Masks at picture size, best first, none of them empty where words were asked; the same bytes again, also from
    another session after other requests and other draws."""
    prompt = KINDS[kind]
    session = engine.open(clip(count))
    found = session.segment(prompt)
    for mask in found:
        assert mask.mask.shape == SIZE and mask.mask.dtype == bool and 0 <= mask.score <= 1
    assert [m.score for m in found] == sorted((m.score for m in found), reverse=True)
    if kind in ("click", "clicks", "box", "stroke", "mask", "phrase", "question"):
        assert len(found) <= 1
    torch.rand(5)
    other = engine.open(clip(count))
    other.segment(Prompt(text="something else"))
    assert_equal(session.segment(prompt), found)
    assert_equal(other.segment(prompt), found)


def test_every_box_is_an_object_of_its_own(engine):
    boxes = ((5, 5, 30, 30), (40, 10, 70, 50))
    found = engine.open(picture()).segment(Prompt(boxes=boxes))
    alone = [engine.open(picture()).segment(Prompt(boxes=(b,)))[0] for b in boxes]
    assert_equal(found, alone)
    assert len({m.object_id for m in found}) == 2


@pytest.mark.parametrize("prompt", [CLICK, Prompt(text="the red circle")])
def test_every_frame_has_an_answer_of_its_own(engine, prompt):
    """What was computed for one frame is never taken for another."""
    session, seen = engine.open(clip()), []
    hook = engine.model.mask_decoder.register_forward_hook(lambda _m, _a, out: seen.append(out[-1].mask_logits))
    try:
        found = [session.segment(prompt, frame) for frame in (0, 3, 0)]
        alone = engine.open(clip()).segment(prompt, 3)
    finally:
        hook.remove()
    assert_equal(found[1], alone)
    assert_equal(found[2], found[0])
    assert torch.equal(seen[1], seen[-1]) and not torch.allclose(seen[0], seen[1], atol=1e-4)


def test_what_the_language_model_sees_of_a_clip(engine):
    """The prompted frame first, then others evenly spread, no more than it can take."""
    looking = engine.open(clip(40)).looking
    task, most = find_task("objseg", "video"), engine.model.config.language_frames
    for frame in (0, 17, 39):
        shown = looking.shown(task, frame)
        assert shown[0] == frame and shown[1:] == sorted(set(shown) - {frame}) and len(shown) == most
        assert max(np.diff(sorted(shown))) <= 4
    assert sorted(engine.open(clip(3)).looking.shown(task, 1)) == [0, 1, 2]
    assert looking.shown(find_task("intseg", "image"), 17) == [17]


def test_the_words_decide(engine):
    """Logits, not masks: a network with random weights may well choose the same query twice."""
    seen = []
    session = engine.open(picture())
    hook = engine.model.mask_decoder.register_forward_hook(lambda _m, _a, out: seen.append(out[-1].mask_logits))
    try:
        session.segment(Prompt(text="the red circle"))
        session.segment(Prompt(text="the grey square"))
    finally:
        hook.remove()
    assert not torch.allclose(seen[0], seen[1], atol=1e-4)


def test_phrases_name_the_masks(engine):
    found = engine.open(picture()).segment(Prompt(text="sem: sky, road"))
    assert {m.phrase for m in found} <= {"sky", "road"}
    assert all(m.phrase == ("sky", "road")[m.category] for m in found)


def test_chat_answers_in_words(engine):
    session = engine.open(picture())
    text, masks = session.chat("how many circles are there?")
    assert isinstance(text, str) and masks == []
    assert session.segment(Prompt(text="how many circles are there?")) == []
    assert session.chat("how many circles are there?")[0] == text


def test_a_description_comes_with_the_masks_of_what_it_names(engine):
    session = engine.open(picture())
    text, masks = session.chat("describe")
    assert isinstance(text, str) and masks and all(mask.phrase for mask in masks)
    assert [(m.phrase, m.score, m.mask.sum()) for m in session.segment(Prompt(text="describe"))] == [
        (m.phrase, m.score, m.mask.sum()) for m in masks
    ]


def test_a_question_that_was_replaced_is_not_answered(engine):
    session = engine.open(picture())
    older, newer = engine.scheduler.turn("ann"), engine.scheduler.turn("ann")
    session.chat("why?", replaces=newer)
    for question in ("why?", "describe"):
        with pytest.raises(CancelledError):
            session.chat(question, replaces=older)


# click by click


@pytest.mark.parametrize("clicks", [(PLUS, MINUS, MORE), (MINUS, PLUS, MORE), (PLUS, MORE, replace(PLUS, x=70), MINUS)])
@pytest.mark.parametrize("boxes", [(), ((5, 5, 50, 50),)])
def test_all_clicks_at_once_or_one_by_one(engine, clicks, boxes):
    whole = engine.open(picture()).segment(Prompt(points=clicks, boxes=boxes))
    session = engine.open(picture())
    start = next(i for i, p in enumerate(clicks) if p.positive) + 1
    for count in range(start, len(clicks) + 1):
        step = session.segment(Prompt(points=clicks[:count], boxes=boxes, object_id="mine"))
    assert_equal(step, whole)
    assert step[0].object_id == "mine"


def test_all_clicks_at_once_with_the_last_light_step(build_engine):
    engine = build_engine(snap=True)
    whole = engine.open(picture()).segment(Prompt(points=(PLUS, MINUS, MORE)))
    session = engine.open(picture())
    for count in (1, 2, 3):
        step = session.segment(Prompt(points=(PLUS, MINUS, MORE)[:count]))
    assert_equal(step, whole)
    assert whole[0].mask[int(PLUS.y), int(PLUS.x)] and not whole[0].mask[int(MINUS.y), int(MINUS.x)]


def test_a_click_on_a_known_beginning_costs_one_decoding(engine):
    session, decoded = engine.open(picture()), []
    session.segment(Prompt(points=(PLUS, MINUS)))
    hook = engine.model.mask_decoder.register_forward_hook(lambda *_: decoded.append(1))
    try:
        session.segment(Prompt(points=(PLUS, MINUS, MORE)))
        assert len(decoded) == 1
        session.segment(Prompt(points=(PLUS, MINUS, MORE)))
        assert len(decoded) == 1
    finally:
        hook.remove()


def test_only_taking_away_corrects_the_mask_before(engine):
    session = engine.open(picture())
    found = session.segment(Prompt(points=(MINUS,), previous=box(10, 10, 75, 50), object_id="mine"))
    assert len(found) == 1 and found[0].object_id == "mine"


def test_objects_get_names_of_their_own(engine):
    session = engine.open(picture())
    found = [session.segment(CLICK)[0].object_id for _ in range(2)]
    assert len(set(found)) == 2 and all(found)
    assert session.segment(replace(CLICK, object_id="mine"))[0].object_id == "mine"


# what is refused


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (Prompt(points=(Point(81, 5),)), "click 81, 5 is outside the picture of 80 x 60"),
        (Prompt(points=(PLUS, Point(5, -1, False))), "click 5, -1 is outside"),
        (Prompt(points=(Point(float("nan"), 5),)), "outside"),
        (Prompt(points=(MINUS,)), "negative click needs something to take away from; click on the object first"),
        (Prompt(boxes=((90, 5, 99, 9),)), "lies inside the picture"),
        (Prompt(boxes=((1, 2, float("inf"), 4),)), "not a number"),
        (Prompt(masks=(np.ones((60, 79), bool),)), "the mask is 79 x 60, the picture 80 x 60"),
        (Prompt(points=(PLUS,), previous=np.ones((1, 1), bool)), "the mask is 1 x 1, the picture 80 x 60"),
        (Prompt(masks=(np.zeros(SIZE, bool),)), "lies inside the picture"),
        (Prompt(), "the prompt is empty; click, draw, or type"),
        (Prompt(text="  "), "the prompt is empty"),
        (Prompt(text="<p></p>"), "text is empty"),
        (Prompt(categories=(" ",)), "at least one category"),
        (Prompt(task="levitate"), "no task 'levitate'"),
        (Prompt(task="vgdseg"), "needs a region"),
        (Prompt(task="refseg"), "text is empty"),
    ],
)
def test_prompts_that_can_not_be_answered(engine, prompt, text):
    session = engine.open(picture())
    with pytest.raises(PromptError, match=text.replace("'", "['\"]")):
        session.segment(prompt)
    assert len(session.segment(CLICK)) == 1


@pytest.mark.parametrize("frame", [-1, 6])
def test_frames_that_are_not_there(video, frame):
    for ask in (
        lambda: video.segment(CLICK, frame),
        lambda: video.segment(Prompt(text="a cat"), frame),
        lambda: video.chat("why?", frame),
        lambda: video.correct(frame, "a", box(1, 1, 9, 9)),
    ):
        with pytest.raises(FramesError, match=f"no frame {frame}; this media has 6"):
            ask()


# tracks


def frames_of(track) -> list[int]:
    return [found.frame for found in track]


@pytest.mark.parametrize(
    ("direction", "start", "stop", "expected"),
    [
        ("forward", 0, None, [2, 3, 4, 5]),
        ("forward", 3, 5, [3, 4]),
        ("backward", 0, None, [2, 1, 0]),
        ("backward", 1, 2, [1]),
        ("both", 0, None, [2, 3, 4, 5, 1, 0]),
        ("both", 1, 4, [2, 3, 1]),
        ("both", 0, 99, [2, 3, 4, 5, 1, 0]),
        ("forward", 0, 2, []),
    ],
)
def test_ranges_and_directions(video, direction, start, stop, expected):
    name = video.segment(CLICK, 2)[0].object_id
    assert frames_of(video.track([name], start, stop, direction)) == expected


@pytest.mark.parametrize("mode", ["fifo", "per-object", "pinned"])
def test_tracks_meet_every_corrected_frame(video, mode):
    """A person's masks come back as they are, on every frame, in both directions, again and again."""
    name = video.segment(CLICK, 2)[0].object_id
    corrections = {0: box(0, 0, 9, 9), 4: box(30, 30, 50, 50)}
    for frame, mask in corrections.items():
        given = mask.copy()
        video.correct(frame, name, given)
        given[:] = True  # what the caller does with it later is nothing to us
    for direction in ("forward", "backward", "both", "both"):
        for found in video.track([name], direction=direction, memory=mode):
            if found.frame in corrections:
                assert np.array_equal(found.masks[0].mask, corrections[found.frame])
                assert found.masks[0].score == 1.0


def test_a_corrected_frame_is_not_overwritten_by_a_prompt(video):
    video.segment(replace(CLICK, object_id="mine"), 2)
    video.correct(2, "mine", box(1, 1, 7, 7))
    video.segment(Prompt(points=(PLUS, MORE), object_id="mine"), 2)
    found = next(iter(video.track(["mine"])))
    assert found.frame == 2 and np.array_equal(found.masks[0].mask, box(1, 1, 7, 7))
    video.correct(2, "mine", box(3, 3, 20, 20))  # the person may change their mind
    assert np.array_equal(next(iter(video.track(["mine"]))).masks[0].mask, box(3, 3, 20, 20))


def test_the_proposed_mask_is_where_a_track_starts(video):
    proposed = video.segment(CLICK, 3)[0]
    found = next(iter(video.track([proposed.object_id], direction="backward")))
    assert found.frame == 3 and np.array_equal(found.masks[0].mask, proposed.mask)
    assert found.masks[0].score == proposed.score


def test_a_backward_track_starts_from_the_last_known_frame(video):
    name = video.segment(CLICK, 1)[0].object_id
    video.correct(4, name, box(1, 1, 20, 20))
    assert frames_of(video.track([name], direction="backward")) == [4, 3, 2, 1, 0]
    assert frames_of(video.track([name], direction="forward")) == [1, 2, 3, 4, 5]


def test_an_object_may_be_known_by_a_persons_mask_only(video):
    video.correct(1, "drawn", box(5, 5, 40, 40))
    found = {f.frame: f.masks[0] for f in video.track(["drawn"], direction="both")}
    assert sorted(found) == [0, 1, 2, 3, 4, 5]
    assert np.array_equal(found[1].mask, box(5, 5, 40, 40)) and found[1].object_id == "drawn"


def test_what_words_found_can_be_tracked(video):
    found = video.segment(Prompt(text="a cat"), 2)
    assert found
    tracked = {f.frame: f.masks for f in video.track([mask.object_id for mask in found], direction="both")}
    assert sorted(tracked) == [0, 1, 2, 3, 4, 5]
    for mask, same in zip(found, tracked[2], strict=True):
        assert (mask.object_id, mask.score) == (same.object_id, same.score) and np.array_equal(mask.mask, same.mask)
    # a correction of it is one of the same object
    video.correct(4, found[0].object_id, box(1, 1, 20, 20))
    assert [f.frame for f in video.track([found[0].object_id])] == [2, 3, 4, 5]


def test_an_empty_mask_says_that_a_known_object_is_gone(video):
    name = video.segment(CLICK, 0)[0].object_id
    video.correct(2, name, np.zeros(SIZE, bool))
    found = {f.frame: f.masks[0].area for f in video.track([name])}
    assert found[2] == 0 and len(found) == 6


def test_several_objects_walk_together(video):
    first = video.segment(CLICK, 0)[0].object_id
    second = video.segment(Prompt(points=(MORE,)), 3)[0].object_id
    found = {f.frame: [m.object_id for m in f.masks] for f in video.track([first, second])}
    assert found == {f: [first] if f < 3 else [first, second] for f in range(6)}


def test_tracks_are_repeatable(video):
    name = video.segment(CLICK, 2)[0].object_id
    first, second = (list(video.track([name], direction="both")) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.frame == b.frame
        assert_equal(a.masks, b.masks)


def test_pages_of_different_sizes(engine):
    """Pages of one task need not be of one size; each answer has the size of its own page."""
    pages = [picture(0), np.ascontiguousarray(picture(1)[:50, :70]), picture(2)]
    session = engine.open(pages)
    name = session.segment(CLICK, 0)[0].object_id
    assert [f.masks[0].mask.shape for f in session.track([name])] == [SIZE, (50, 70), SIZE]


def test_tracks_that_can_not_be_walked(video):
    with pytest.raises(PromptError, match="no object was named"):
        list(video.track([]))
    with pytest.raises(PromptError, match="nothing to track: ghost"):
        list(video.track(["ghost"]))
    name = video.segment(CLICK)[0].object_id
    with pytest.raises(PromptError, match="forward, backward or both"):
        list(video.track([name], direction="sideways"))
    with pytest.raises(ValueError, match="no memory mode"):
        list(video.track([name], memory="everything"))


def test_corrections_that_can_not_be_used(video):
    with pytest.raises(PromptError, match="draw it on this frame"):
        video.correct(0, "a", np.ones((3, 3), bool))
    with pytest.raises(PromptError, match="unknown and its mask is empty"):
        video.correct(0, "a", np.zeros(SIZE, bool))


def test_a_closed_session_has_forgotten_everything(video):
    name = video.segment(CLICK)[0].object_id
    assert len(video.engine.cache) > 0
    video.close()
    assert len(video.engine.cache) == 0 and video.engine.cache.used == 0
    with pytest.raises(PromptError, match="nothing to track"):
        list(video.track([name]))
    assert len(video.segment(CLICK)) == 1


def test_clips_that_are_walked_again_keep_their_features(build_engine, sketching_model, monkeypatch):
    """A second walk encodes nothing and finds the same; of clips that are too long nothing is kept."""
    encoded = []
    encode = type(sketching_model).encode

    def counted(self, pixels):
        encoded.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(type(sketching_model), "encode", counted)
    for longest, again in ((96, 0), (5, 5)):
        monkeypatch.setattr("x2sam.inference.looking.WALKED_AGAIN", longest)
        engine = build_engine(sketching_model)
        session = engine.open(clip())
        session.correct(0, "a", box(10, 10, 40, 40))
        first = [f.masks[0].mask for f in session.track(["a"])]
        encoded.clear()
        second = [f.masks[0].mask for f in session.track(["a"])]
        assert len(encoded) == again
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
        session.close()
        assert engine.features.bytes == 0


def test_doubts_come_with_tracked_masks(build_engine, sketching_model):
    """Known masks have none; frames between two of them hear of both walks."""
    session = build_engine(sketching_model).open(clip())
    session.correct(0, "a", box(10, 10, 40, 40))
    single = {f.frame: f.masks[0].doubt for f in session.track(["a"])}
    assert single[0] is None and all(0 < single[k] < 1 for k in range(1, 6))
    session.correct(5, "a", box(20, 10, 50, 40))
    met = {f.frame: f.masks[0].doubt for f in session.track(["a"])}
    assert met[0] is None and met[5] is None and all(0 < met[k] < 1 for k in range(1, 5))
    assert met[3] != single[3]


# memory


def test_answers_are_kept_up_to_a_number_of_bytes(tiny_engine, monkeypatch):
    image = picture()
    session = tiny_engine.open(image)
    (first,) = session.segment(CLICK)
    kept, one = session.answers.nbytes, len(session.answers)
    assert one == 1 and kept >= image.shape[0] * image.shape[1]
    monkeypatch.setattr("x2sam.inference.kept.REMEMBERED_BYTES", 3 * kept)
    for x in range(10, 70, 4):
        session.segment(Prompt(points=(Point(x, 30),)))
        assert session.answers.nbytes <= 3 * kept
    assert len(session.answers) == 3
    assert_equal(session.segment(CLICK), [first])  # forgotten, and found anew
    session.close()
    assert session.answers.nbytes == 0


def test_objects_that_were_only_prompted_are_forgotten_the_oldest_first(build_engine, tiny_model, monkeypatch):
    monkeypatch.setattr("x2sam.inference.kept.REMEMBERED_OBJECTS", 3)
    video = build_engine(tiny_model, snap=False).open(clip(2))
    corrected = video.segment(CLICK)[0].object_id
    video.correct(0, corrected, box(10, 10, 40, 40))
    names = [video.segment(Prompt(points=(Point(x, 30),)))[0].object_id for x in (10, 20, 30, 40)]
    video.segment(replace(CLICK, object_id=corrected))  # prompted again it still is a person's
    assert [len(list(video.track([name]))) for name in (corrected, *names[1:])] == [2, 2, 2, 2]
    with pytest.raises(PromptError, match=names[0]):
        video.track([names[0]]).__next__()


def test_what_has_ended_is_let_go_of_at_once(engine):
    """Nothing waits for the garbage collector, which looks at old objects once in many thousand requests."""

    def work():
        session = engine.open(clip())
        (mask,) = session.segment(CLICK)
        list(session.track([mask.object_id], direction="both"))
        session.correct(0, "corrected", box(4, 4, 30, 30))
        next(session.track(["corrected"])), next(session.track(["corrected"]))
        search = session.find_in_clip(Prompt(text="the red circle"))
        list(search)
        search.found()
        search.close()
        session.close()

    work()
    gc.collect()
    gc.disable()
    try:
        work()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kinds = [type(one) for one in gc.garbage]
        kept = [kind.__name__ for kind in kinds if kind.__module__.startswith(("x2sam", "torch", "numpy"))]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not kept, kept
