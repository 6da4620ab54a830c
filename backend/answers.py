"""From one task and its prompts to one answer: frames, questions, engine, result items.

This is the whole path of a request between parsing and JSON. Showing the masks of further pages than the prompted ones
would start where :func:`_segment` gets its answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from backend import replies
from backend.engines import BATCH_PRIORITY, EngineLoader, Session
from backend.errors import LabelConfigError
from backend.frames import DecodedPictures, TaskFrames, addresses_of
from backend.label_config import ControlTag, LabelConfig, ObjectTag, task_value
from backend.media import MediaFetcher
from backend.metrics import Metrics
from backend.prompts import Ask, category_ask, label_in_text, region_asks, text_asks
from backend.protocol import Context, Task
from backend.results import Item, Place, region_items, task_score, text_item
from backend.sessions import SessionRegistry
from backend.settings import Settings
from x2sam.data.tasks import task_of
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


def kind_of(context: Context | None) -> str:
    """What a request asks for, in one word for logs and metrics."""
    if context is None:
        return "automatic"
    if context.regions:
        return "box" if context.regions[-1].box else "click"
    return "text" if context.texts else "empty"


def answer_context(services: Services, task: Task, config: LabelConfig, context: Context) -> Answer:
    """The answer to clicks, boxes or text of a person who is waiting for it."""
    prompts = context.regions or tuple(text for text in context.texts if config.is_text_prompt(text.from_name))
    if not prompts:
        return Answer()
    tag = _object_tag(config, prompts[0].to_name)
    if tag.kind == "video":
        return _only_words(config, tag, replies.VIDEO_TAG)
    frames, paged = _frames(services, tag, task)
    if context.regions:
        asks = region_asks(task, [r for r in context.regions if r.to_name == tag.name], frames.size_of)
    else:
        asks = text_asks(task, prompts, config)
        if not asks:
            return _only_words(config, tag, replies.ANSWERED_BEFORE, prompts[-1].page)
    if paged:
        asks = [replace(ask, page=ask.frame) for ask in asks]
    control = config.output(tag.name, prompts[0].from_name)
    labels = [None if ask.prompt.text else control.label_value(ask.label) for ask in asks]
    found = _segment(services, frames, asks)
    items, sentences = [], []
    for ask, label, (words, masks) in zip(asks, labels, found, strict=True):
        named = [label or label_in_text(control, mask.phrase, ask.prompt.text) for mask in masks]
        items += _items(control, ask, named, masks, frames)
        sentences.append((ask.page, words or _sentence(ask, label, masks)))
    masks = [mask for _, answered in found for mask in answered]
    return Answer(items + _reply(config, tag, sentences), task_score(masks), len(masks))


def answer_automatic(services: Services, task: Task, config: LabelConfig) -> Answer | None:
    """The prediction for a task that nobody prompts: everything that the labels name.

    None when there is nothing to store: nothing was found, or the task is a clip or a video, where a mask on one frame
    only would mislead. An empty prediction would keep Label Studio from asking again.
    """
    tag = config.picture()
    if tag is None:
        raise LabelConfigError("The labeling configuration has no Image tag.")
    if tag.kind == "video":
        return None
    frames, paged = _frames(services, tag, task)
    if len(frames) > 1:
        return None
    control = config.output(tag.name)
    ask, labels = category_ask(task, control, tag.name)
    ask = replace(ask, page=0 if paged else None)
    ((_, masks),) = _segment(services, frames, [ask], BATCH_PRIORITY)
    items = _items(control, ask, [labels[mask.category] for mask in masks], masks, frames)
    return Answer(items, task_score(masks), len(masks)) if items else None


def words_only(config: LabelConfig, sentence: str, context: Context) -> Answer | None:
    """An answer that is only a sentence, on the page of the first prompt; None without a field to show it in."""
    reply = config.reply()
    if reply is None or not reply.to_names:
        return None
    prompts = (*context.regions, *context.texts)
    return Answer([text_item(reply, reply.to_names[0], sentence, prompts[0].page if prompts else None)])


def _object_tag(config: LabelConfig, name: str) -> ObjectTag:
    tag = config.objects.get(name)
    if tag is None:
        raise LabelConfigError(f"The labeling configuration has no Image tag '{name}'; reload the page.")
    return tag


def _frames(services: Services, tag: ObjectTag, task: Task) -> tuple[TaskFrames, bool]:
    """The pictures of a task, and whether the editor shows them as pages."""
    value = task_value(tag, task.data)
    frames = TaskFrames(addresses_of(value, task.id), services.fetcher, services.decoded, services.settings.max_pixels)
    return frames, tag.pages or isinstance(value, list)


def _segment(
    services: Services, frames: TaskFrames, asks: Sequence[Ask], priority: int | None = None
) -> list[tuple[str | None, list[Mask]]]:
    """For each question what the model says, if it answers in words, and the masks, empty ones left out."""
    engine = services.engines.wait(services.settings.load_wait)
    key = frames.key

    def open_session() -> Session:
        return engine.open(frames, key=key)

    with services.sessions.use(key, open_session) as session:
        answers = [_ask(session, ask, priority) for ask in asks]
    return [(words, [mask for mask in masks if mask.mask.any()]) for words, masks in answers]


def _ask(session: Session, ask: Ask, priority: int | None) -> tuple[str | None, list[Mask]]:
    if task_of(ask.prompt, "image").name == "chat":
        return session.chat(ask.prompt.text, frame=ask.frame)
    # A newer click on the same object makes the answer to an older one useless.
    replaces = ask.object_id if ask.prompt.has_region else None
    return None, session.segment(ask.prompt, frame=ask.frame, priority=priority, replaces=replaces)


def _sentence(ask: Ask, label: str | None, masks: Sequence[Mask]) -> str:
    if label is None:
        return replies.about_text(ask.prompt.text, masks)
    return replies.about_region(label, masks)


def _items(
    control: ControlTag, ask: Ask, labels: Sequence[str], masks: Sequence[Mask], frames: TaskFrames
) -> list[Item]:
    size = frames.shown_size_of(ask.frame, ask.shown)
    items = []
    for number, (label, mask) in enumerate(zip(labels, masks, strict=True)):
        object_id = ask.object_id if number == 0 else f"{ask.object_id}n{number + 1}"
        items += region_items(control, Place(object_id, ask.to_name, label, size, ask.page), mask)
    return items


def _only_words(config: LabelConfig, tag: ObjectTag, sentence: str, page: int | None = None) -> Answer:
    return Answer(_reply(config, tag, [(page, sentence)]))


def _reply(config: LabelConfig, tag: ObjectTag, sentences: Sequence[tuple[int | None, str]]) -> list[Item]:
    """The sentences in the reply field: one on each page where the field has one for each, else all in one."""
    reply = config.reply(tag.name)
    if reply is None or not sentences:
        return []
    if reply.flag("perItem", default=False):
        return [text_item(reply, tag.name, sentence, page) for page, sentence in sentences]
    text = " ".join(replies.on_page(page, sentence) for page, sentence in sentences)
    return [text_item(reply, tag.name, text)]
