"""What a person says of pages without drawing: ``lock`` makes tracked masks theirs, ``gone`` says that an object is not
there. Both are remembered as what the person knows, so no track makes these pages anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from backend.carried import Carried, Known, Screen
from backend.protocol import TypedText
from backend.track_replies import GONE_WHERE, GONE_WHICH, about_gone, about_locks


def lock(screen: Screen, texts: Sequence[TypedText], page: int | None) -> str:
    """Locks what was carried to a page, or to all where that is None; the answer to it."""
    locked: set[int] = set()
    for one in screen.objects(texts):
        pages = [number for number in one.anew if page in (None, number)]
        locked |= {number for number in pages if screen.history.lock(one.object_id, number)}
    return about_locks(sorted(locked), page)


def gone(screen: Screen, texts: Sequence[TypedText], page: int | None) -> str:
    """Notes that objects without a mask on a page are not in sight there; the answer to it.

    Of several objects it must be clear which: those that stand on other pages and were deleted on this one.
    """
    if page is None:
        return GONE_WHERE
    here = {region.object_id for region in screen.work.regions if region.page == page}
    accepted = {region.object_id for region in screen.work.regions}
    objects = screen.objects(texts)
    missing = [one for one in objects if one.object_id not in here and page not in one.kept]
    if len(objects) > 1:
        if missing and not any(one.object_id in accepted for one in objects):
            return GONE_WHICH
        missing = [one for one in missing if one.object_id in accepted]
    for one in missing:
        screen.history.note_gone(one.object_id, one.label, page)
    return about_gone([one.label for one in missing], page)


SAYINGS: Mapping[str, Callable[[Screen, Sequence[TypedText], int | None], str]] = {"lock": lock, "gone": gone}
"""By the kind of a :class:`backend.tracking.Order`."""


def waiting(screen: Screen, texts: Sequence[TypedText]) -> Iterator[tuple[Carried, int, Known]]:
    """What waits to be accepted, and a new answer would take off the screen."""
    for one in screen.objects(texts):
        standing = {region.page for region in screen.work.regions if region.object_id == one.object_id}
        masks = {**one.anew, **one.known}
        for page in sorted(masks.keys() - one.kept - standing):
            yield one, page, masks[page]
