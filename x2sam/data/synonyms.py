"""Other words that people use for a category: annotators type "man" or "bike", the outlines say person and bicycle."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "person": ("man", "woman", "boy", "girl", "child", "guy", "lady", "kid", "player", "rider", "human", "somebody"),
    "car": ("vehicle", "automobile"),
    "bus": ("coach", "vehicle"),
    "truck": ("lorry", "vehicle", "van"),
    "motorcycle": ("motorbike", "bike"),
    "bicycle": ("bike", "cycle"),
    "airplane": ("plane", "aircraft", "jet"),
    "boat": ("ship", "vessel"),
    "dog": ("puppy", "animal"),
    "cat": ("kitten", "animal"),
    "horse": ("pony", "animal"),
    "cow": ("cattle", "animal"),
    "deer": ("animal", "stag"),
    "otter": ("animal",),
    "tiger": ("animal", "big cat"),
    "turtle": ("animal", "tortoise"),
    "bear": ("animal",),
    "elephant": ("animal",),
    "couch": ("sofa",),
    "tv": ("television", "screen", "monitor"),
    "laptop": ("computer", "notebook"),
    "cell phone": ("phone", "mobile phone", "smartphone"),
    "remote": ("remote control",),
    "dining table": ("table", "desk"),
    "potted plant": ("plant", "flower pot"),
    "donut": ("doughnut",),
    "refrigerator": ("fridge",),
    "sports ball": ("ball",),
    "wine glass": ("glass",),
    "cup": ("mug",),
    "handbag": ("bag", "purse"),
    "suitcase": ("luggage", "bag"),
    "backpack": ("bag", "rucksack"),
    "glass bottle": ("bottle",),
    "plastic bottle": ("bottle",),
    "vegetation": ("plants", "trees", "bushes"),
    "street": ("road",),
    "facade": ("building", "house", "front of the building"),
    "strawberry fruit": ("strawberry", "fruit"),
    "strawberry leaf": ("leaf",),
    "strawberry flower": ("flower",),
}


def reword(phrase: str, category: str, others: set[str], rng: random.Random) -> str:
    """``phrase`` with another word for ``category``, where there is one that fits none of the ``others`` as well."""
    taken = {word for other in others if other != category for word in (other, *SYNONYMS.get(other, ()))}
    free = [word for word in SYNONYMS.get(category, ()) if word not in taken]
    return re.sub(rf"\b{re.escape(category)}\b", rng.choice(free), phrase, count=1) if free else phrase
