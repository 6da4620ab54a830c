"""The prediction of a clip that nobody prompts: what tracks on it have found, for whoever opens it again."""

from __future__ import annotations

from backend.answers import Answer, Services, frames_of, items_of
from backend.carrying import Carrier
from backend.evidence import Work
from backend.history import History
from backend.label_config import LabelConfig
from backend.protocol import Task
from backend.remembered import PackedMask
from backend.results import task_score


def predict_pages(services: Services, task: Task, config: LabelConfig) -> Answer | None:
    """The masks of tracks that ended; None where there are none, or a track still runs.

    Label Studio stores a prediction once and does not ask again, so half a track would stay half. Others may open the
    task, so masks that a person drew or changed are left out, and all of it where several people tracked here.
    """
    tag = config.picture()
    if tag is None or tag.kind == "video":
        return None
    frames, paged = frames_of(services, tag, task)
    if not paged or len(frames) < 2:
        return None
    history = History(task.id, Work(), services.remembered, frames.size_of)
    reply = Carrier(services, task, config, tag, frames, Work(), history, paged).predicted()
    if reply is None:
        return None
    items = []
    for found in reply.carried:
        history.remember_track(
            found.object_id, found.label, found.page or 0, PackedMask.of(found.mask.mask), found.mask.score
        )
        items += items_of(services, tag, frames, reply.ask, found)
    masks = [found.mask for found in reply.carried if found.mask.mask.any()]
    return Answer(items, task_score(masks), len(masks)) if items else None
