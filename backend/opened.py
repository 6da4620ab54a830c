"""The prediction for a task that somebody opens, or that predictions are retrieved for: nobody prompts."""

from __future__ import annotations

import time
from dataclasses import replace

from backend.answers import Answer, Services, answer_automatic, frames_of, items_of, reply_items
from backend.carrying import Carrier
from backend.clip_prediction import fill_clip, fill_pages
from backend.continued import Brought, bring, note_seen
from backend.evidence import Work
from backend.history import History
from backend.label_config import LabelConfig
from backend.predicted import predict_pages
from backend.prompts import Ask, object_name
from backend.protocol import Task
from backend.remembered import PackedMask
from backend.results import task_score
from backend.tracking import Reach
from backend.video_spans import span_of
from x2sam.structures import Prompt


def answer_opened(services: Services, task: Task, config: LabelConfig, seconds: float | None = None) -> Answer | None:
    """The tracks of the task before, for the next pages of a video; for other clips what the labels name
    (:func:`fill_clip`, :func:`fill_pages`), either within ``seconds``; for pictures :func:`answer_automatic`.

    What tracks on the task itself have found goes before that. None when there is nothing to store, or not all of it
    yet: Label Studio stores a prediction once.
    """
    found = predict_pages(services, task, config)
    if found is not None:
        return found
    tag = config.picture()
    if tag is None or tag.kind == "video":
        return answer_automatic(services, task, config)
    frames, paged = frames_of(services, tag, task)
    if len(frames) < 2:
        return answer_automatic(services, task, config)
    if not services.engines.wait(services.settings.load_wait).remembers:
        return fill_pages(services, task, config, tag, seconds)
    limit = services.settings.track_seconds
    begun = time.monotonic() - (limit - min(limit, seconds) if seconds is not None else 0.0)
    span = span_of(task, 0)
    begins = not tag.pages or span is None or not span.start
    brought = Brought() if begins else bring(services, task, tag, frames)
    if not brought.objects:
        return fill_clip(services, task, config, tag, seconds)
    work = Work()
    history = History(task.id, work, services.remembered, frames.size_of)
    carrier = Carrier(services, task, config, tag, frames, work, history, paged, begun)
    ask = Ask(object_name(task.id, "continue"), Prompt(), tag.name, page=0)
    reply = replace(carrier, earlier=brought.pages).carry_to_the_end(ask, brought.objects, Reach("forward"))
    if reply is None:
        return None
    seen = [found for found in reply.carried if found.mask.mask.any()]
    if not seen:
        return None
    items = []
    for found in reply.carried:
        mask = PackedMask.of(found.mask.mask)
        history.remember_track(found.object_id, found.label, found.page or 0, mask, found.mask.score)
        items += items_of(services, tag, frames, ask, found)
    note_seen(services, task, frames, work, {found.object_id: found.label for found in reply.carried})
    items += reply_items(config, tag, [(0, reply.sentence)])
    return Answer(items, task_score([found.mask for found in seen]), len(seen))
