"""What is looked for when nobody prompts: the labels of the configuration as names, and how each is outlined."""

from __future__ import annotations

from dataclasses import dataclass

from backend.label_config import OUTPUTS, ControlTag, Label, LabelConfig, labels_of
from backend.prompts import Ask, object_name
from backend.protocol import Task
from x2sam.structures import Prompt


@dataclass(frozen=True)
class Category:
    """A name to look for, and the label and tag of what is found."""

    name: str
    label: str
    control: ControlTag


def category_ask(task: Task, config: LabelConfig, to_name: str) -> tuple[Ask, list[Category]] | None:
    """The question for everything that the labels name, with a row for each category of its answer.

    ``preannotate`` on a tag for masks is ``instance`` (every object by itself), ``semantic`` (one region for each
    label), ``panoptic`` (labels with ``kind="stuff"`` one region, the others one by one; this is the default) or
    ``off``. Where some tags have it, only these are filled. None when all are off.

    :raises LabelConfigError: there is no tag for masks, or ``preannotate`` is something else.
    """
    tags = config.outputs(to_name)
    tags = [tag for tag in tags if not tag.smart] or tags  # prompts hold answers only where nothing else does
    hinted = [tag for tag in tags if tag.mode is not None]
    on = [tag for tag in hinted if tag.mode != "off"]
    pairs = labels_of(on or [tag for tag in tags if tag not in hinted])
    found: dict[str, tuple[str, Category]] = {}
    for label, control in pairs:
        for name in label.names:
            plain = " ".join(name.replace(",", " ").replace(";", " ").split())
            entry = f"sem: {plain}" if _is_stuff(label, control) else plain
            found.setdefault(plain, (entry, Category(plain, label.value, control)))
    if not found:
        return None
    prompt = Prompt(categories=tuple(entry for entry, _ in found.values()), task="genseg")
    first = config.picture()
    beside = () if first is None or first.name == to_name else (to_name,)  # a further picture of the task
    return Ask(object_name(task.id, "all", *beside), prompt, to_name), [category for _, category in found.values()]


def asks_to_fill(config: LabelConfig, to_name: str) -> bool:
    """Whether a tag for answers has the hint ``preannotate``, other than ``off``.

    :raises LabelConfigError: it is something else than it may be.
    """
    return any(tag.mode not in (None, "off") for tag in config.on(to_name, *OUTPUTS))


def _is_stuff(label: Label, control: ControlTag) -> bool:
    return {"semantic": True, "instance": False}.get(control.mode or "panoptic", label.stuff)
