"""From one task and its prompts to one answer: frames, questions, engine, result items.

This is the path of a request between parsing and JSON for what nobody prompts, and what it shares with the answers to
prompts (:mod:`backend.prompted`). Showing the masks of further pages than the prompted ones would start where
:func:`segment` gets its answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from backend import replies
from backend.admission import Admission
from backend.background import Tracks
from backend.categories import Category, category_ask
from backend.effort_meter import EffortMeter
from backend.engines import BATCH_PRIORITY, EngineLoader, Session
from backend.errors import LabelConfigError
from backend.events import EventLog
from backend.frames import DecodedPictures, TaskFrames, addresses_of
from backend.hot_swap import HotSwap
from backend.journal import Journal
from backend.label_config import ControlTag, LabelConfig, ObjectTag, task_value
from backend.learner import Learner
from backend.logs import note
from backend.look_list import LookLists
from backend.media import MediaFetcher
from backend.metrics import Metrics
from backend.model_versions import ModelVersions
from backend.prompts import Ask
from backend.protocol import Context, Task
from backend.recorder import Recorder
from backend.remembered import Remembered
from backend.results import Item, Place, region_items, task_score, text_item
from backend.sessions import SessionRegistry
from backend.settings import Settings
from backend.turns import Turns
from backend.video_files import VideoFiles
from backend.video_regions import ToldSequences
from backend.video_spans import SeenTasks
from backend.video_walk import PausedWalks
from backend.warming import Warmer
from x2sam.data.tasks import task_of
from x2sam.inference.scheduler import Turn
from x2sam.stages import stage
from x2sam.structures import Mask


@dataclass(frozen=True)
class Services:
    """What outlives a request; made once by the app."""

    settings: Settings
    engines: EngineLoader
    sessions: SessionRegistry
    fetcher: MediaFetcher
    decoded: DecodedPictures
    metrics: Metrics
    admission: Admission
    warmer: Warmer
    video_files: VideoFiles
    journal: Journal
    events: EventLog
    effort: EffortMeter
    tracks: Tracks
    versions: ModelVersions
    learner: Learner
    recorder: Recorder
    swap: HotSwap | None = None
    turns: Turns = field(default_factory=Turns)
    remembered: Remembered = field(default_factory=Remembered)
    seen_tasks: SeenTasks = field(default_factory=SeenTasks)
    walks: PausedWalks = field(default_factory=PausedWalks)
    told_sequences: ToldSequences = field(default_factory=ToldSequences)
    look_lists: LookLists = field(default_factory=LookLists)

    @property
    def model_version(self) -> str:
        """The version of the loaded engine; while it loads, the name that was asked for."""
        engine = self.engines.ready_engine
        return engine.version if engine is not None else self.settings.model


@dataclass(frozen=True)
class Answer:
    """Result items of one task, the number it is sorted by, and how many masks were found."""

    items: list[Item] = field(default_factory=list)
    score: float | None = None
    masks: int = 0


@dataclass(frozen=True, eq=False)
class Found:
    """A mask with its name, its label, the tag that it goes to, and its page where that is not the question's."""

    object_id: str
    label: str
    control: ControlTag
    mask: Mask
    page: int | None = None


@dataclass(frozen=True, eq=False)
class Reply:
    """What came of one question: ``sentence`` tells it, ``others`` are masks that are only shown again, ``carried``
    those that were made on other pages."""

    ask: Ask
    sentence: str
    found: Sequence[Found] = ()
    others: Sequence[Found] = ()
    carried: Sequence[Found] = ()


def kind_of(context: Context | None) -> str:
    """What a request asks for, in one word for logs and metrics."""
    if context is None:
        return "automatic"
    if context.regions:
        return "box" if context.regions[-1].box else "click"
    return "text" if context.texts else "empty"


def answer_automatic(services: Services, task: Task, config: LabelConfig) -> Answer | None:
    """The prediction for a task that nobody prompts: everything that the labels name, on each picture that it shows.

    None when there is nothing to store: nothing was found, or the task is a clip or a video, where a mask on one frame
    only would mislead. An empty prediction would keep Label Studio from asking again.
    """
    tag = config.picture()
    if tag is None:
        raise LabelConfigError("The labeling configuration has no Image tag: take one of label_config/, or add one.")
    if tag.kind == "video":
        return None
    shown = [one for one in config.objects.values() if one.kind == "image" and config.answers_on(one.name)]
    filled = [_filled(services, task, config, one) for one in shown or [tag]]
    found = [answer for answer in filled if answer is not None]
    if len(found) < 2:
        return found[0] if found else None
    scores = [answer.score for answer in found if answer.score is not None]
    items = [item for answer in found for item in answer.items]
    return Answer(items, min(scores, default=None), sum(answer.masks for answer in found))


def _filled(services: Services, task: Task, config: LabelConfig, tag: ObjectTag) -> Answer | None:
    frames, paged = frames_of(services, tag, task)
    if len(frames) > 1:
        return None
    asked = category_ask(task, config, tag.name)
    if asked is None:
        return None
    ask, categories = asked
    return named_things(services, tag, frames, replace(ask, page=0 if paged else None), categories)


def named_things(
    services: Services, tag: ObjectTag, frames: TaskFrames, ask: Ask, categories: Sequence[Category]
) -> Answer | None:
    """What the labels name on one page, for a prediction; None where nothing was found."""
    ((_, masks),) = segment(services, frames, [ask], BATCH_PRIORITY)
    size, items = frames.shown_size_of(ask.frame), []
    for number, mask in enumerate(masks):
        category = categories[mask.category]
        object_id = ask.object_id if number == 0 else f"{ask.object_id}n{number + 1}"
        place = Place(object_id, tag.name, category.label, size, ask.page)
        with stage("shape"):
            items += region_items(category.control, place, mask, services.settings.polygon_tolerance)
    return Answer(items, task_score(masks), len(masks)) if items else None


def words_only(config: LabelConfig, sentence: str, context: Context) -> Answer | None:
    """An answer that is only a sentence, on the page of the first prompt; None without a field to show it in."""
    reply = config.reply()
    if reply is None or not reply.to_names:
        return None
    prompts = (*context.regions, *context.texts)
    return Answer([text_item(reply, reply.to_names[0], sentence, prompts[0].page if prompts else None)])


def with_words(config: LabelConfig, answer: Answer | None, sentence: str) -> Answer | None:
    """The answer with one more sentence, where it has a field for that."""
    reply = config.reply()
    if answer is None or reply is None:
        return answer
    items = [
        item | {"value": {"text": [*item["value"]["text"][:-1], f"{item['value']['text'][-1]} {sentence}"]}}
        if item["from_name"] == reply.name and item["value"].get("text")
        else item
        for item in answer.items
    ]
    return replace(answer, items=items)


def object_tag(config: LabelConfig, name: str) -> ObjectTag:
    """The Image or Video with a name.

    :raises LabelConfigError: there is none.
    """
    tag = config.objects.get(name)
    if tag is None:
        raise LabelConfigError(f"The labeling configuration has no Image tag '{name}'; reload the page.")
    return tag


def frames_of(services: Services, tag: ObjectTag, task: Task) -> tuple[TaskFrames, bool]:
    """The pictures of a task, and whether the editor shows them as pages."""
    value = task_value(tag, task.data)
    frames = TaskFrames(addresses_of(value, task.id), services.fetcher, services.decoded, services.settings.max_pixels)
    return frames, tag.pages or isinstance(value, list)


def items_of(services: Services, tag: ObjectTag, frames: TaskFrames, ask: Ask, found: Found) -> list[Item]:
    """The result items of one mask of an answer."""
    page = ask.page if found.page is None else found.page
    size = frames.shown_size_of(page or 0, ask.shown if page == ask.page else None)
    place = Place(found.object_id, tag.name, found.label, size, page)
    with stage("shape"):
        return region_items(found.control, place, found.mask, services.settings.polygon_tolerance)


def segment(
    services: Services, frames: TaskFrames, asks: Sequence[Ask], priority: int | None = None, turn: Turn | None = None
) -> list[tuple[str | None, list[Mask]]]:
    """For each question what the model says, if it answers in words, and the masks, empty ones left out."""
    engine = services.engines.wait(services.settings.load_wait)
    key = frames.key
    note(session=key[:12])

    def open_session() -> Session:
        return engine.open(frames, key=key)

    with services.sessions.use((engine.version, key), open_session) as session, stage("segment"):
        answers = _answers(session, asks, priority, turn)
    return [(words, [mask for mask in masks if mask.mask.any()]) for words, masks in answers]


def _answers(
    session: Session, asks: Sequence[Ask], priority: int | None, turn: Turn | None
) -> list[tuple[str | None, list[Mask]]]:
    """What is not answered in words is asked for at once, so that the model may look at a page once for all of it."""
    silent = [(ask.prompt, ask.frame) for ask in asks if not _in_words(ask)]
    masks = iter(session.segment_all(silent, priority=priority, replaces=turn) if silent else ())
    return [
        session.chat(ask.prompt.text or "", frame=ask.frame, replaces=turn) if _in_words(ask) else (None, next(masks))
        for ask in asks
    ]


def _in_words(ask: Ask) -> bool:
    return ask.prompt.text is not None and task_of(ask.prompt, "image").generates


def only_words(config: LabelConfig, tag: ObjectTag, sentence: str, page: int | None = None) -> Answer:
    """An answer that is only a sentence about one picture."""
    return Answer(reply_items(config, tag, [(page, sentence)]))


def reply_items(config: LabelConfig, tag: ObjectTag, sentences: Sequence[tuple[int | None, str]]) -> list[Item]:
    """The sentences in the reply field: one on each page where the field has one for each, else all in one."""
    reply = config.reply(tag.name)
    if reply is None or not sentences:
        return []
    if reply.flag("perItem", default=False):
        return [text_item(reply, tag.name, sentence, page) for page, sentence in sentences]
    text = " ".join(replies.on_page(page, sentence) for page, sentence in sentences)
    return [text_item(reply, tag.name, text)]
