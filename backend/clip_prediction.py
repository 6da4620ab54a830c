"""The prediction for a clip that nobody prompts: objects of the labels' names, over all its pages."""

from __future__ import annotations

import time
from dataclasses import replace

from backend import replies
from backend.answers import Answer, Services, frames_of, items_of, named_things, reply_items
from backend.carrying import Carrier
from backend.categories import asks_to_fill, category_ask
from backend.clip_words import Named, carry_found, numbered, reply_page, search_clip
from backend.continued import note_seen
from backend.engines import BATCH_PRIORITY
from backend.evidence import Work
from backend.history import History
from backend.label_config import LabelConfig, ObjectTag
from backend.protocol import Task
from backend.remembered import PackedMask
from backend.results import task_score

_NOTHING_RUNS_OUT = 1.0  # seconds: what is left at least, so that something comes of it


def fill_pages(
    services: Services, task: Task, config: LabelConfig, tag: ObjectTag, seconds: float | None = None
) -> Answer | None:
    """As :func:`fill_clip` for a model without memory: each page by itself, and nothing is the same from page to page.

    What was found is kept by the engine's features only, so where the time was too short the next attempt is faster.
    """
    asked = category_ask(task, config, tag.name) if asks_to_fill(config, tag.name) else None
    if asked is None:
        return None
    limit = services.settings.track_seconds
    end = time.monotonic() + (limit if seconds is None else min(limit, seconds))
    (ask, categories), items, scores, masks = asked, [], [], 0
    frames, _ = frames_of(services, tag, task)
    for page in range(len(frames)):
        if page and time.monotonic() > end:
            return None
        here = replace(ask, page=page, object_id=f"{ask.object_id}p{page}")
        found = named_things(services, tag, frames, here, categories)
        if found is not None:
            items, masks = items + found.items, masks + found.masks
            scores.append(found.score)
    return Answer(items, min((one for one in scores if one is not None), default=None), masks) if items else None


def fill_clip(
    services: Services, task: Task, config: LabelConfig, tag: ObjectTag, seconds: float | None = None
) -> Answer | None:
    """Everything that the labels name, as objects over all pages; only tags with the hint ``preannotate`` are filled,
    since a clip takes long and nobody may have asked for it.

    None when there is nothing to store: no hint, nothing found, or not all of it in ``seconds``. Then it goes on in the
    background, and whoever opens the task later gets it.
    """
    asked = category_ask(task, config, tag.name) if asks_to_fill(config, tag.name) else None
    if asked is None:
        return None
    limit = services.settings.track_seconds
    seconds = limit if seconds is None else min(limit, max(seconds, _NOTHING_RUNS_OUT))
    frames, paged = frames_of(services, tag, task)
    work, (ask, categories) = Work(), asked
    history = History(task.id, work, services.remembered, frames.size_of)
    begun = time.monotonic() - (limit - seconds)
    carrier = Carrier(services, task, config, tag, frames, work, history, paged, begun)
    seen = search_clip(services, frames, ask.prompt, seconds=seconds / 2, priority=BATCH_PRIORITY)
    named = []
    for number, thing in enumerate(seen.objects):
        category = categories[thing.category]
        named.append(Named(numbered(ask.object_id, number), category.label, category.control, thing))
    if not named:
        return None
    ask = replace(ask, page=reply_page(config, tag))
    shown, reply = carry_found(carrier, ask, named)
    for found in (*shown, *reply.carried):  # also where it goes on: then this is known to be no person's
        mask = PackedMask.of(found.mask.mask)
        history.remember_track(found.object_id, found.label, found.page or 0, mask, found.mask.score)
    note_seen(services, task, frames, work, {one.object_id: one.label for one in named})
    if any(job.running for job in services.tracks.of_task(task.id)):
        return None
    told = [replies.Sight(one.label, one.thing.score, one.thing.surest) for one in named]
    names = ", ".join(dict.fromkeys(category.name for category in categories))
    sentence = replies.about_clip(names, told, seen.looked, len(frames), seen.left_out)
    sentence = " ".join(filter(None, (sentence, seen.remark, reply.sentence)))
    items = [item for found in (*shown, *reply.carried) for item in items_of(services, tag, frames, ask, found)]
    items += reply_items(config, tag, [(ask.page, sentence)])
    masks = [found.mask for found in (*shown, *reply.carried) if found.mask.mask.any()]
    return Answer(items, task_score(masks), len(masks))
