"""X-SAM's selection rules on compact blobs, against the reference: all tasks, with prompts that tell its rules from
X2SAM's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from xsam_reference import LAYOUT, limits_of

from x2sam.data.tasks import find_task
from x2sam.inference.object_choice import box_overlap
from x2sam.inference.postprocess import Quirks, Rule, postprocess
from x2sam.inference.preprocess import FrameSizes
from x2sam.inference.query_masks import Prediction
from x2sam.layouts import X2SAM_LAYOUT

REFERENCE = Quirks.reference()


@pytest.fixture(scope="module")
def blobs(xsam_parity):
    return xsam_parity.load(xsam_parity.manifest["post_synthetic"]["file"])


@pytest.fixture(scope="module")
def told(xsam_parity) -> dict:
    return xsam_parity.manifest["post_synthetic"]


@pytest.fixture
def predicted(blobs, told):
    """(number of categories) to the frame, with the columns of the first categories and of the background."""
    side = (told["network_size"],) * 2
    sizes = FrameSizes(side, tuple(told["scaled_size"]), tuple(told["image_size"]))
    # the reference's masks are stored at the size at which they enter post-processing, a quarter of the network's
    logits = blobs["mask_logits_32"]

    def of(categories: int = 3) -> Prediction:
        every = blobs["class_logits_3"]
        return Prediction(logits, torch.cat((every[:, :categories], every[:, -1:]), 1), sizes)

    return of


def assert_like(found, listed: list[dict], tolerance: float = 2e-3) -> None:
    assert found.scores == pytest.approx([entry["score"] for entry in listed], abs=tolerance)
    assert found.categories.tolist() == [entry.get("category_id", entry.get("label_id")) for entry in listed]


def differing(found: np.ndarray, stored: torch.Tensor) -> float:
    return float((found != stored.numpy()).mean())


def test_semantic_maps_are_added_up_at_the_networks_size(predicted, blobs):
    rule = Rule(find_task("genseg", "image"), things=(False,) * 3, quirks=REFERENCE, layout=LAYOUT)
    ours = postprocess(rule, predicted()).label_map(255)
    assert differing(ours, blobs["sem.segmentation"]) == 0
    other = postprocess(replace(rule, layout=X2SAM_LAYOUT), predicted()).label_map(255)
    assert 0 < differing(other, blobs["sem.segmentation"]) < 0.02  # the case tells the two orders apart


@pytest.mark.parametrize(("name", "task", "kinds"), [("ins", "genseg", 3), ("vgd", "vgdseg", 2)])
def test_instances(name, task, kinds, predicted, blobs, told):
    rule = Rule(
        find_task(task, "image"), told["args"][name]["threshold"], (True,) * kinds, regions=kinds, quirks=REFERENCE,
        layout=LAYOUT,
    )  # fmt: skip
    found = postprocess(rule, predicted(kinds))
    listed = told["segments_info"][name]
    # the reference does not sort, so its order is that of its library; each of its instances must be among ours
    assert len(found) == len(listed)
    for number, entry in enumerate(listed):
        off = np.abs(found.scores - entry["score"]) + 10 * (found.categories != entry["label_id"])
        same = int(off.argmin())
        assert off[same] < 1e-5 and int(blobs[f"{name}.classes"][number]) == entry["label_id"]
        assert differing(found.masks[same], blobs[f"{name}.masks"][number].bool()) == 0


def test_panoptic_ids_count_on(predicted, blobs, told):
    args = told["args"]["pan"]
    things = tuple(c not in args["stuff"] for c in range(3))
    limits = limits_of(args)
    rule = Rule(find_task("genseg", "image"), args["threshold"], things, limits=limits, quirks=REFERENCE, layout=LAYOUT)
    found = postprocess(rule, predicted())
    listed = told["segments_info"]["pan"]
    assert_like(found, listed)
    assert found.ids.tolist() == [entry["id"] for entry in listed] == list(range(1, len(listed) + 1))
    assert found.things.tolist() == [entry["isthing"] for entry in listed]
    background = int(blobs["pan.segmentation"].min())
    assert differing(found.label_map(background), blobs["pan.segmentation"]) == 0


def test_a_phrase(predicted, blobs, told):
    found = postprocess(Rule(find_task("refseg", "image"), quirks=REFERENCE, layout=LAYOUT), predicted(1))
    assert_like(found, [told["segments_info"]["ref"]])
    assert differing(np.where(found.masks[0], 1, 255), blobs["ref.segmentation"]) == 0


def test_grounded_captions(predicted, blobs, told):
    found = postprocess(Rule(find_task("gcgseg", "image"), quirks=REFERENCE, layout=LAYOUT), predicted())
    assert_like(found, told["segments_info"]["gcg"])
    assert found.ids.tolist() == [1, 2, 3]
    background = next(v for v in np.unique(blobs["gcg.segmentation"].numpy()) if v not in (1, 2, 3))
    assert differing(found.label_map(int(background)), blobs["gcg.segmentation"]) == 0


def test_the_prompted_object_is_the_one_whose_box_is_most_alike(predicted, blobs, told):
    region = blobs["int.prompt_mask"].long()
    rule = Rule(find_task("intseg", "image"), told["args"]["int"]["threshold"], region=region, regions=1,
                quirks=REFERENCE, layout=LAYOUT)  # fmt: skip
    found = postprocess(rule, predicted(1))
    assert_like(found, [told["segments_info"]["int"]])
    assert differing(np.where(found.masks[0], 1, 255), blobs["int.segmentation"]) == 0
    other = postprocess(replace(rule, layout=X2SAM_LAYOUT), predicted(1))
    assert float(other.scores[0]) != pytest.approx(float(found.scores[0]), abs=1e-3)  # by masks it is another query


def test_boxes_overlap_by_hand():
    """A 2 x 3 box at the corner and a 2 x 2 one that shares 1 x 2 of it: 2 / (6 + 4 - 2); an empty mask has no box."""
    one = torch.zeros(5, 5, dtype=torch.bool)
    one[0, 2] = one[1, 0] = True  # rows 0-1, columns 0-2
    two = F.pad(torch.ones(2, 2, dtype=torch.bool), (1, 2, 1, 2))  # rows 1-2, columns 1-2
    assert box_overlap(torch.stack((one, two, torch.zeros_like(one))), two).tolist() == pytest.approx([2 / 8, 1.0, 0.0])
