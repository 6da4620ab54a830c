"""Average precision of masks by pycocotools, with masks kept as run lengths only (Lin et al., COCO, ECCV 2014)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Hashable, Sequence

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

_STATS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def encode(mask: np.ndarray) -> dict:
    """Compressed run lengths of a bool mask (H, W). Frames of a tube are put below each other, (T * H, W)."""
    return rle.encode(np.asfortranarray(mask.reshape(-1, mask.shape[-1]), np.uint8))


class PrecisionTotals:
    """Answers and truth of many pictures (or frames). Categories are known by any name that is equal everywhere."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._images: list[dict] = []
        self._truths: list[dict] = []
        self._answers: list[dict] = []

    def add(
        self,
        size: tuple[int, int],
        truths: Sequence[tuple[Hashable, dict]],
        answers: Sequence[tuple[Hashable, float, dict]],
        ignore: dict | None = None,
    ) -> None:
        """One picture (H, W): (category, run lengths) of the truth, (category, score, run lengths) of the answers.

        ignore: run lengths of pixels that count neither way. They hold for every category: COCO knows crowds of one
        category only, so an answer of another one on a crowd is forgiven here.
        """
        image = len(self._images) + 1
        self._images.append({"id": image, "height": size[0], "width": size[1]})
        for name, mask in truths:
            self._truth(image, self._number(name), mask, crowd=False)
        for name, score, mask in answers:
            number = self._number(name)
            entry = {"id": len(self._answers) + 1, "image_id": image, "category_id": number, "score": float(score)}
            self._answers.append({**entry, "segmentation": mask, "area": float(rle.area(mask)), "iscrowd": 0})
        if ignore is not None and rle.area(ignore):
            for number in {self._number(name) for name, *_ in answers}:
                self._truth(image, number, ignore, crowd=True)

    def _number(self, name: Hashable) -> int:
        return self._numbers.setdefault(name, len(self._numbers) + 1)

    def _truth(self, image: int, category: int, mask: dict, crowd: bool) -> None:
        entry = {"id": len(self._truths) + 1, "image_id": image, "category_id": category, "iscrowd": int(crowd)}
        box = rle.toBbox(mask).tolist()
        self._truths.append({**entry, "segmentation": mask, "area": float(rle.area(mask)), "bbox": box})

    def result(self) -> dict:
        """``ap`` (mean over IoU 0.5 ... 0.95), ``ap50``, ``ap75``, and by area; None where there is no such object.

        Categories without a true object are left out of the mean, as COCO does.
        """
        if not any(not t["iscrowd"] for t in self._truths):
            return {**dict.fromkeys(_STATS), "objects": 0}
        with contextlib.redirect_stdout(io.StringIO()):  # the library prints as it goes
            judge = COCOeval(self._coco(self._truths), self._coco(self._answers), "segm")
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        values = {name: float(v) if v >= 0 else None for name, v in zip(_STATS, judge.stats[:6], strict=True)}
        return {**values, "objects": sum(not t["iscrowd"] for t in self._truths)}

    def _coco(self, entries: list[dict]) -> COCO:
        coco = COCO()
        categories = [{"id": number, "name": str(name)} for name, number in self._numbers.items()]
        coco.dataset = {"images": self._images, "categories": categories, "annotations": entries}
        coco.createIndex()
        return coco
