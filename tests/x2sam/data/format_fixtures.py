"""Small data sets of every format, written on the fly: ``build_all(directory)`` gives a :class:`DatasetSpec` per name.

Pictures of 64 x 64 pixels and clips of six frames with generated objects. The writers know nothing of the readers; they
use pycocotools, PIL and json. From anywhere in the tests: ``from tests.x2sam.data.format_fixtures import build_all``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import av
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from x2sam.data.prompts import KINDS
from x2sam.data.readers import DatasetSpec, open_dataset
from x2sam.data.readers.own_format import OwnExpression, OwnItem, OwnObject, OwnPhrase, write_dataset
from x2sam.data.scenes import generate_clip, generate_picture
from x2sam.data.task_sample import Turn
from x2sam.data.vgd import build_prompts
from x2sam.structures import Sample

SIZE = (64, 64)
FRAMES = 6


def scenes(count: int = 4, seed: int = 0) -> list[Sample]:
    """Pictures with things and regions."""
    return [generate_picture(np.random.default_rng((seed, k)), SIZE) for k in range(count)]


def clips(count: int = 2, seed: int = 1, frames: int = FRAMES) -> list[Sample]:
    return [generate_clip(np.random.default_rng((seed, k)), frames, SIZE) for k in range(count)]


def rle(mask: np.ndarray) -> dict:
    coded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(n) for n in coded["size"]], "counts": coded["counts"].decode()}


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def write_picture(path: Path, picture: np.ndarray) -> Path:
    """PNG where the name says so, else a JPEG of high quality."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=95)
    return path


def write_labels(path: Path, labels: np.ndarray) -> Path:
    """A PNG with a palette, as DAVIS has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(labels.astype(np.uint8), "P")
    picture.putpalette([(17 * k) % 256 for k in range(768)])
    picture.save(path)
    return path


def write_grey(path: Path, labels: np.ndarray) -> Path:
    """A PNG of one channel of 8 bits, as the layouts of ``labelmaps``, ``clips`` and ``expressions`` have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels.astype(np.uint8)).save(path)
    return path


def write_segments(path: Path, numbers: np.ndarray) -> Path:
    """Panoptic ids as RGB: R + 256 G + 65536 B."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], -1).astype(np.uint8)).save(path)
    return path


def write_video(path: Path, frames: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "10", "g": "3"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
        container.mux(stream.encode())
    return path


def category_table(samples: list[Sample]) -> list[dict]:
    kinds = {o.category: o.thing for sample in samples for o in sample.objects}
    return [{"id": 10 + 3 * k, "name": name, "isthing": int(kinds[name])} for k, name in enumerate(sorted(kinds))]


def _ids(samples: list[Sample]) -> dict[str, int]:
    return {entry["name"]: entry["id"] for entry in category_table(samples)}


def _coco(samples: list[Sample], root: Path) -> dict:
    """An instances file; its pictures are written. Annotation ids are ``100 * picture + object``."""
    names = _ids(samples)
    content: dict = {"images": [], "annotations": [], "categories": category_table(samples)}
    for k, sample in enumerate(samples):
        write_picture(root / "images" / f"{k:06d}.jpg", sample.frames[0])
        content["images"].append({"id": k, "file_name": f"{k:06d}.jpg", "height": SIZE[0], "width": SIZE[1]})
        for o in sample.objects:
            if o.thing:
                mask = sample.labels[0] == o.id
                content["annotations"].append({
                    "id": 100 * k + o.id, "image_id": k, "category_id": names[o.category], "iscrowd": 0,
                    "area": int(mask.sum()), "segmentation": rle(mask),
                })  # fmt: skip
    return content


def build_coco(root: Path) -> DatasetSpec:
    content = _coco(scenes(), root)
    content["categories"] = [c for c in content["categories"] if c["isthing"]]
    path = write_json(root / "instances.json", content)
    return DatasetSpec("coco", "coco", "genseg", path, root / "images")


def build_panoptic(root: Path) -> DatasetSpec:
    samples = scenes()
    content = _coco(samples, root)
    names = _ids(samples)
    content["annotations"] = []
    for k, sample in enumerate(samples):
        numbers = np.zeros(SIZE, np.int64)
        for o in sample.objects:
            # Ids that need more than one byte.
            numbers[sample.labels[0] == o.id] = 1000 * o.id + k + 1
        write_segments(root / "panoptic" / f"{k:06d}.png", numbers)
        segments = [
            {"id": 1000 * o.id + k + 1, "category_id": names[o.category], "iscrowd": 0}
            for o in sample.objects
            if (sample.labels[0] == o.id).any()
        ]
        content["annotations"].append({"image_id": k, "file_name": f"{k:06d}.png", "segments_info": segments})
    path = write_json(root / "panoptic.json", content)
    return DatasetSpec("panoptic", "coco-panoptic", "genseg", path, root / "images", root / "panoptic")


def build_semantic(root: Path) -> DatasetSpec:
    samples = scenes()
    names = _ids(samples)
    for k, sample in enumerate(samples):
        values = np.full(SIZE, 255, np.uint8)
        for o in sample.objects:
            values[sample.labels[0] == o.id] = names[o.category]
        write_picture(root / "images" / f"{k}.jpg", sample.frames[0])
        write_labels(root / "maps" / f"{k}.png", values)
    path = write_json(root / "categories.json", {"categories": category_table(samples), "ignore": [255]})
    return DatasetSpec("semantic", "semantic", "genseg", path, root / "images", root / "maps")


def build_refer(root: Path) -> DatasetSpec:
    samples = scenes()
    source = write_json(root / "instances.json", _coco(samples, root))
    refs = [
        {
            "ref_id": 100 * k + o.id, "ann_id": 100 * k + o.id, "image_id": k, "split": "val" if k % 2 else "train",
            "sentences": [{"sent": phrase} for phrase in o.phrases[:2]],
        }
        for k, sample in enumerate(samples)
        for o in sample.objects
        if o.thing and o.phrases
    ]  # fmt: skip
    path = write_json(root / "refs.json", refs)
    return DatasetSpec("refer", "refer", "refseg", path, root / "images", source=source)


def _corners(mask: np.ndarray) -> list[list[int]]:
    rows, cols = np.nonzero(mask)
    x0, x1, y0, y1 = int(cols.min()), int(cols.max()), int(rows.min()), int(rows.max())
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def build_reason(root: Path) -> DatasetSpec:
    for k, sample in enumerate(scenes()):
        o = next(o for o in sample.objects if o.thing)
        write_picture(root / "train" / f"{k}.jpg", sample.frames[0])
        write_json(root / "train" / f"{k}.json", {
            "text": [f"What here has the shape of a {o.category}?"], "is_sentence": True,
            "shapes": [{"label": "target", "points": _corners(sample.labels[0] == o.id)}],
        })  # fmt: skip
    answers = write_json(root / "answers.json", [{"image": "0.jpg", "outputs": "It is the one with that outline."}])
    return DatasetSpec("reason", "reason", "reaseg", root / "train", source=answers)


def build_grounded(root: Path) -> DatasetSpec:
    entries = []
    for k, sample in enumerate(scenes()):
        write_picture(root / "images" / f"{k}.jpg", sample.frames[0])
        caption, groundings = "The picture shows", {}
        for o in sample.objects[:3]:
            phrase = f"the {o.category}" if f"the {o.category}" not in groundings else f"one more {o.category}"
            start = len(caption) + 1
            caption += f" {phrase} and"
            mask = rle(sample.labels[0] == o.id)
            groundings[phrase] = {"token_positives": [start, start + len(phrase)], "rle_masks": [mask]}
        entries.append({"file_name": f"{k}.jpg", "caption": f"{caption} more.", "groundings": groundings})
    path = write_json(root / "captions.json", entries)
    return DatasetSpec("grounded", "grounded", "gcgseg", path, root / "images")


def build_grounded_video(root: Path) -> DatasetSpec:
    entries = []
    for k, sample in enumerate(clips()):
        names = _write_frames(root / "frames", f"clip{k}", sample)
        o = next(o for o in sample.objects if o.thing)
        caption = f"A {o.category} moves."
        shapes = [rle(frame == o.id) for frame in sample.labels]
        phrases = [{"span": [0, 2 + len(o.category)], "segmentations": shapes}]
        entries.append({"frames": names, "caption": caption, "phrases": phrases})
    path = write_json(root / "captions.json", entries)
    return DatasetSpec("grounded-video", "grounded", "gcgseg", path, root / "frames", modality="video")


def _write_frames(root: Path, name: str, sample: Sample) -> list[str]:
    names = [f"{name}/{5 * t:05d}.jpg" for t in range(len(sample.frames))]
    for path, frame in zip(names, sample.frames, strict=True):
        write_picture(root / path, frame)
    return names


def build_sa1b(root: Path) -> DatasetSpec:
    for k, sample in enumerate(scenes()):
        folder = root / f"sa_{k // 2:06d}"
        write_picture(folder / f"sa_{k}.jpg", sample.frames[0])
        outlines = [{"id": o.id, "segmentation": rle(sample.labels[0] == o.id)} for o in sample.objects if o.thing]
        image = {"image_id": k, "file_name": f"sa_{k}.jpg", "height": SIZE[0], "width": SIZE[1]}
        write_json(folder / f"sa_{k}.json", {"image": image, "annotations": outlines})
    return DatasetSpec("sa1b", "sa1b", "genseg", root)


def build_ytvis(root: Path) -> DatasetSpec:
    samples = clips()
    names = _ids(samples)
    table = [entry for entry in category_table(samples) if entry["isthing"]]
    content: dict = {"videos": [], "annotations": [], "categories": table}
    for k, sample in enumerate(samples):
        files = _write_frames(root / "JPEGImages", f"clip{k}", sample)
        content["videos"].append({"id": k + 1, "file_names": files, "height": SIZE[0], "width": SIZE[1]})
        for o in sample.objects:
            if o.thing:
                masks = [frame == o.id for frame in sample.labels]
                content["annotations"].append({
                    "id": 100 * k + o.id, "video_id": k + 1, "category_id": names[o.category], "iscrowd": 0,
                    "segmentations": [rle(mask) if mask.any() else None for mask in masks],
                })  # fmt: skip
    path = write_json(root / "instances.json", content)
    return DatasetSpec("ytvis", "ytvis", "genseg", path, root / "JPEGImages")


def build_panoptic_video(root: Path) -> DatasetSpec:
    samples = clips()
    names = _ids(samples)
    content: dict = {"videos": [], "annotations": [], "categories": category_table(samples)}
    for k, sample in enumerate(samples):
        images, lines = [], []
        for t, (frame, labels) in enumerate(zip(sample.frames, sample.labels, strict=True)):
            write_picture(root / "images" / f"clip{k}" / f"{t:08d}.jpg", frame)
            write_segments(root / "panomasksRGB" / f"clip{k}" / f"{t:08d}.png", labels.astype(np.int64) % 255 * 300)
            images.append({"id": f"{t:08d}", "file_name": f"{t:08d}.jpg", "height": SIZE[0], "width": SIZE[1]})
            segments = [
                {"id": 300 * o.id, "category_id": names[o.category], "iscrowd": 0}
                for o in sample.objects
                if (labels == o.id).any()
            ]
            lines.append({"image_id": f"{t:08d}", "file_name": f"{t:08d}.png", "segments_info": segments})
        content["videos"].append({"video_id": f"clip{k}", "images": images})
        content["annotations"].append({"video_id": f"clip{k}", "annotations": lines})
    path = write_json(root / "panoptic.json", content)
    return DatasetSpec(
        "panoptic-video", "panoptic-video", "genseg", path, root / "images", root / "panomasksRGB"
    )  # fmt: skip


def build_semantic_video(root: Path) -> DatasetSpec:
    samples = clips()
    names = _ids(samples)
    for k, sample in enumerate(samples):
        for t, (frame, labels) in enumerate(zip(sample.frames, sample.labels, strict=True)):
            values = np.full(SIZE, 255, np.uint8)
            for o in sample.objects:
                values[labels == o.id] = names[o.category]
            write_picture(root / "data" / f"clip{k}" / "origin" / f"{t:08d}.jpg", frame)
            write_labels(root / "data" / f"clip{k}" / "mask" / f"{t:08d}.png", values)
    path = write_json(root / "categories.json", {"categories": category_table(samples), "ignore": [255]})
    return DatasetSpec(
        "semantic-video", "semantic", "genseg", path, root / "data", root / "data", modality="video"
    )  # fmt: skip


def _vos(root: Path) -> list[Sample]:
    samples = clips()
    for k, sample in enumerate(samples):
        _write_frames(root / "JPEGImages", f"clip{k}", sample)
        things = [o.id for o in sample.objects if o.thing]
        for t, labels in enumerate(sample.labels):
            write_labels(root / "Annotations" / f"clip{k}" / f"{5 * t:05d}.png", labels * np.isin(labels, things))
    return samples


def build_vos(root: Path) -> DatasetSpec:
    samples = _vos(root)
    videos = {
        f"clip{k}": {"objects": {str(o.id): {"category": o.category} for o in sample.objects if o.thing}}
        for k, sample in enumerate(samples)
    }
    meta = write_json(root / "meta.json", {"videos": videos})
    return DatasetSpec("vos", "vos", "objseg", root / "Annotations", root / "JPEGImages", source=meta)


def build_refer_video(root: Path) -> DatasetSpec:
    videos = {}
    for k, sample in enumerate(_vos(root)):
        things = [o for o in sample.objects if o.thing and o.phrases]
        expressions = {str(n): {"exp": o.phrases[0], "obj_id": str(o.id)} for n, o in enumerate(things[:2])}
        videos[f"clip{k}"] = {"frames": [f"{5 * t:05d}" for t in range(FRAMES)], "expressions": expressions}
    path = write_json(root / "meta_expressions.json", {"videos": videos})
    return DatasetSpec("refer-video", "refer-video", "refseg", path, root / "JPEGImages", root / "Annotations")


def build_reason_video(root: Path) -> DatasetSpec:
    """Masks in a JSON file, as MeViS and ReVOS have them."""
    videos, masks = {}, {}
    for k, sample in enumerate(clips()):
        _write_frames(root / "JPEGImages", f"clip{k}", sample)
        o = next(o for o in sample.objects if o.thing)
        masks[str(k)] = [rle(labels == o.id) if (labels == o.id).any() else None for labels in sample.labels]
        line = {"exp": f"Which one looks like a {o.category}?", "obj_id": [o.id], "anno_id": [k], "type_id": 1}
        videos[f"clip{k}"] = {"frames": [f"{5 * t:05d}" for t in range(FRAMES)], "expressions": {"0": line}}
    path = write_json(root / "meta_expressions.json", {"videos": videos})
    source = write_json(root / "mask_dict.json", masks)
    return DatasetSpec("reason-video", "refer-video", "reaseg", path, root / "JPEGImages", source=source)


def build_chat(root: Path) -> DatasetSpec:
    entries = []
    for k, sample in enumerate(scenes()):
        write_picture(root / "images" / f"{k}.jpg", sample.frames[0])
        o = sample.objects[0]
        lines = [("human", "<image>\nWhat is in the picture?"), ("gpt", f"A {o.category}."),
                 ("human", "Is it moving?"), ("gpt", "It is a picture, nothing moves.")]  # fmt: skip
        turns = [{"from": who, "value": words} for who, words in lines]
        entries.append({"id": f"chat{k}", "image": f"{k}.jpg", "conversations": turns})
    path = write_json(root / "chat.json", entries)
    return DatasetSpec("chat", "chat", "chat", path, root / "images")


def build_chat_video(root: Path) -> DatasetSpec:
    entries = []
    for k, sample in enumerate(clips()):
        write_video(root / "videos" / f"{k}.mp4", sample.frames)
        turns = [
            {"from": "human", "value": "What moves?\n<video>"},
            {"from": "gpt", "value": f"A {sample.objects[0].category}."},
        ]
        entries.append({"id": k, "video": f"{k}.mp4", "conversations": turns})
    path = write_json(root / "chat.json", entries)
    return DatasetSpec("chat-video", "chat", "chat", path, root / "videos", modality="video", frames_per_clip=4)


def build_labelmaps(root: Path) -> DatasetSpec:
    pictures = []
    for k, sample in enumerate(scenes()):
        write_picture(root / "images" / "made" / f"{k}.jpg", sample.frames[0])
        write_grey(root / "masks" / "made" / f"{k}.png", sample.labels[0])
        pictures.append({
            "file": f"images/made/{k}.jpg", "mask": f"masks/made/{k}.png", "width": SIZE[1], "height": SIZE[0],
            "source": "made", "complete": sample.complete,
            "objects": [{"id": o.id, "category": o.category, "thing": o.thing} for o in sample.objects],
        })  # fmt: skip
    write_json(root / "train.json", {"version": 1, "pictures": pictures})
    return DatasetSpec("labelmaps", "labelmaps", "genseg", root)


def build_clips(root: Path) -> DatasetSpec:
    """Video files; also the source of ``expressions``."""
    videos, samples = [], []
    for k, sample in enumerate(clips()):
        folder = root / "videos" / f"clip{k}"
        write_video(folder / "video.mp4", sample.frames)
        for t, labels in enumerate(sample.labels):
            write_grey(folder / "masks" / f"{t:05d}.png", labels)
        objects = [{"id": o.id, "label": o.category, "expression": (*o.phrases, o.category)[0]} for o in sample.objects]
        videos.append({
            "name": f"clip{k}", "video": f"videos/clip{k}/video.mp4", "masks": f"videos/clip{k}/masks", "fps": 10,
            "frames": FRAMES, "width": SIZE[1], "height": SIZE[0], "gt_frames": list(range(FRAMES)),
            "objects": objects,
        })  # fmt: skip
        samples.append({"video": f"videos/clip{k}/video.mp4", "masks": f"videos/clip{k}/masks", "object_ids": [1],
                        "expression": objects[0]["expression"], "kind": "referring video"})  # fmt: skip
    write_json(root / "videos.json", {"videos": videos})
    for k, sample in enumerate(scenes()):
        write_picture(root / "images" / f"{k}.jpg", sample.frames[0])
        write_grey(root / "masks" / f"{k}.png", sample.labels[0])
        o = sample.objects[0]
        samples.append({"image": f"images/{k}.jpg", "mask": f"masks/{k}.png", "object_ids": [o.id],
                        "expression": o.phrases[0], "kind": "referring"})  # fmt: skip
    write_json(root / "referring.json", {"samples": samples})
    return DatasetSpec("clips", "clips", "objseg", root)


def build_expressions(root: Path) -> DatasetSpec:
    build_clips(root)
    return DatasetSpec("expressions", "expressions", "refseg", root)


def own_items(root: Path) -> list[OwnItem]:
    """Pictures and clips with everything that the format holds; their media are written."""
    items = []
    for k, sample in enumerate([*scenes(2), *clips(1)]):
        video = len(sample.frames) > 1
        files = _write_frames(root, f"media/{k}", sample)
        o = sample.objects[0]
        masks = {t: {o.id: labels == o.id for o in sample.objects} for t, labels in enumerate(sample.labels)}
        items.append(OwnItem(
            f"task-{k}", SIZE, tuple(OwnObject(o.id, o.category, o.thing) for o in sample.objects), masks,
            media="" if video else files[0], frames=tuple(files) if video else (), length=len(sample.frames),
            video=video, ignore={0: sample.labels[0] == 255},
            expressions=(OwnExpression(o.phrases[0], (o.id,)),
                         OwnExpression(f"What is a {o.category}?", (o.id,), True, "This.")),
            caption=f"A {o.category} is there.", phrases=(OwnPhrase(0, 2 + len(o.category), (o.id,)),),
            turns=(Turn("What is it?", f"A {o.category}."),), split="train", complete=sample.complete,
            provenance={"annotator": "nobody"},
        ))  # fmt: skip
    return items


def build_own(root: Path) -> DatasetSpec:
    write_dataset(root, own_items(root), {"made_by": "tests"})
    return DatasetSpec("x2sam", "x2sam", "genseg", root, modality="image")


def build_own_video(root: Path) -> DatasetSpec:
    return replace(build_own(root), name="x2sam-video", modality="video")


def build_vgd(root: Path) -> DatasetSpec:
    """Prompts for clips of three frames of ``ytvis``."""
    source = replace(build_ytvis(root), mode="instance", frames_per_clip=3)
    content = build_prompts(source, open_dataset(source), tuple(KINDS), 0)
    path = write_json(root / "prompts.json", content)
    return DatasetSpec("vgd", "vgd", "vgdseg", path, root / "JPEGImages", source=source.annotations)


BUILDERS: MappingProxyType[str, Callable[[Path], DatasetSpec]] = MappingProxyType({
    "coco": build_coco, "panoptic": build_panoptic, "semantic": build_semantic, "refer": build_refer,
    "reason": build_reason, "grounded": build_grounded, "grounded-video": build_grounded_video, "ytvis": build_ytvis,
    "panoptic-video": build_panoptic_video, "semantic-video": build_semantic_video, "vos": build_vos,
    "refer-video": build_refer_video, "reason-video": build_reason_video, "chat": build_chat,
    "chat-video": build_chat_video, "labelmaps": build_labelmaps, "clips": build_clips,
    "expressions": build_expressions, "sa1b": build_sa1b, "x2sam": build_own, "x2sam-video": build_own_video,
    "vgd": build_vgd,
})  # fmt: skip


def build_all(root: Path) -> dict[str, DatasetSpec]:
    """A data set of every format under ``root``, each in a directory of its own, by the names of :data:`BUILDERS`."""
    return {name: build(root / name) for name, build in BUILDERS.items()}
