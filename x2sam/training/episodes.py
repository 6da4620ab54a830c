"""A sample becomes an episode: several prompts of several kinds about one picture or clip, with their answers.

Two routes, as at inference: *sketch* rows have a drawn region that is also painted into the memory and exactly one
target; *word* rows are answered from the conversation alone (phrases, category lists, regions, all-like-this).
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from x2sam.data import prompts
from x2sam.data.clicks import next_click
from x2sam.data.masks import IGNORE, mask_bbox, visible_objects
from x2sam.data.noisy_masks import noisy_mask
from x2sam.data.synonyms import reword
from x2sam.data.tasks import IMAGE, VIDEO, find_task
from x2sam.inference.conversation import ChatEncoder, ExpandedTokens, Query, expand, render
from x2sam.inference.preprocess import PreprocessConfig, mask_frames, vlm_image, vlm_video
from x2sam.inference.sketch import paint_region
from x2sam.structures import Sample, SampleObject


@dataclass(frozen=True)
class EpisodeConfig:
    """sketch_rows, word_rows: prompts per picture; kinds: chance of each drawn kind; free_template: chance that the
    question is drawn at random instead of the one used in service; centre: chance that a click is the protocol's.

    ``rough`` among the kinds is a mask with plausible errors, as a propagated or half-corrected mask has them; the
    truth is the answer. ``words``: chance that a word row has words rather than a region without its sketch;
    ``asked``: then, chances of an expression, a list of names, an example; ``reword``: chance of a synonym.
    ``sparse``: chance that a drawn box is about the object that fills its box least, of four drawn at random."""

    sketch_rows: int = 5
    word_rows: int = 2
    kinds: tuple[tuple[str, float], ...] = (("point", 0.6), ("box", 0.14), ("scribble", 0.1), ("mask", 0.16))
    words: float = 0.5
    asked: tuple[float, float, float] = (0.6, 0.25, 0.15)
    reword: float = 0.3
    sparse: float = 0.0
    free_template: float = 0.3
    centre: float = 0.6
    click_radius: tuple[float, float] = (3.0, 6.0)


@dataclass(frozen=True, eq=False)
class Row:
    """One prompt. ``regions`` bool (n, S, S); ``masks`` bool (T, N, S, S) of the N targets with ``labels`` (N,).

    ``guidance`` float32 (h, w) for the sketch route, else None.
    """

    tokens: ExpandedTokens
    regions: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    guidance: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Episode:
    """``pixels`` (T, 3, S, S); ``patches`` and ``grid`` for the vision tower; ``valid`` bool (T, S, S); ``kinds`` int64
    (S / 8, S / 8), see :func:`kinds_of`."""

    pixels: Tensor
    patches: Tensor
    grid: tuple[int, int, int]
    sketch_rows: list[Row]
    word_rows: list[Row]
    valid: np.ndarray
    name: str
    kinds: np.ndarray


class EpisodeBuilder:
    """Builds episodes for one model's tokenizer and preprocessing. ``grid`` is the size of mask logits."""

    def __init__(self, encoder: ChatEncoder, views: PreprocessConfig, region_tokens: int, config: EpisodeConfig):
        self.encoder, self.views, self.config = encoder, views, config
        self.region_tokens = region_tokens
        self.grid = (views.mask_size[0] // 4, views.mask_size[1] // 4)

    def build(self, sample: Sample, rng: np.random.Generator) -> Episode | None:
        """None when nothing in the first frame can be prompted."""
        objects = visible_objects(sample)
        if not objects:
            return None
        video = len(sample.frames) > 1
        seen = (vlm_video if video else vlm_image)(sample.frames, self.views)
        context = _Context(self, sample, objects, rng, VIDEO if video else IMAGE, seen.grid)
        return Episode(
            pixels=mask_frames(sample.frames, self.views).pixels,
            patches=seen.patches,
            grid=seen.grid,
            sketch_rows=context.sketch_rows(),
            word_rows=context.word_rows(),
            valid=sample.labels != IGNORE,
            name=sample.source or "generated",
            kinds=kinds_of(sample),
        )


KINDS = 4096


def kinds_of(sample: Sample) -> np.ndarray:
    """Number of the category at every eighth place of the first frame, int64 (h, w): its name's checksum, 0 for proven
    background, -1 where nobody said."""
    table = np.full(256, -1, np.int64)
    table[0] = 0 if sample.complete else -1
    for thing in sample.objects:
        table[thing.id] = 1 + zlib.crc32(thing.category.encode()) % (KINDS - 1)
    table[IGNORE] = -1
    return table[sample.labels[0][4::8, 4::8]]


class _Context:
    """What the rows of one episode share."""

    def __init__(self, builder: EpisodeBuilder, sample: Sample, objects: Sequence[SampleObject], rng, modality, grid):
        self.builder, self.sample, self.objects, self.rng = builder, sample, objects, rng
        self.modality, self.patch_grid = modality, grid
        self.words = random.Random(int(rng.integers(2**31)))

    def sketch_rows(self) -> list[Row]:
        count, rows = self.builder.config.sketch_rows, []
        order = self.by_size()
        names, chances = zip(*self.builder.config.kinds, strict=True)
        for index in range(count):
            thing = self.objects[order[index % len(order)]]
            kind = str(self.rng.choice(names, p=np.array(chances) / sum(chances)))
            if kind == "box" and self.rng.random() < self.builder.config.sparse:
                thing = min((self.pick() for _ in range(4)), key=self.fill)
            region = self.draw(thing, kind)
            guidance = paint_region(region, "mask" if kind == "rough" else kind, self.builder.grid)
            rows.append(self.row("intseg", Query(regions=1), region[None], [thing], [0], guidance))
        return rows

    def fill(self, thing: SampleObject) -> float:
        """Share of the object's box that is the object. Branches, cables and what stands behind others have little of
        it, and are rarer in training pictures than in the ones people bring."""
        mask = self.sample.labels[0] == thing.id
        left, top, right, bottom = mask_bbox(mask)
        return float(np.count_nonzero(mask) / ((right - left) * (bottom - top)))

    def by_size(self) -> np.ndarray:
        """A random order in which large objects tend to come first (by the root of their area).

        Pictures with a hundred cells or windows would otherwise teach that whatever is clicked is small.
        """
        areas = np.array([np.count_nonzero(self.sample.labels[0] == o.id) for o in self.objects], float)
        # the order of a weighted draw without replacement (Gumbel's trick)
        return np.argsort(-(0.5 * np.log(areas) + self.rng.gumbel(size=len(areas))))

    def word_rows(self) -> list[Row]:
        makers: list[Callable[[], Row | None]] = [self.plain_region, self.phrase, self.categories, self.alike]
        rows: list[Row] = []
        for _ in range(self.builder.config.word_rows):
            worded = self.rng.random() < self.builder.config.words
            maker = makers[1 + int(self.rng.choice(3, p=self.builder.config.asked))] if worded else makers[0]
            rows.append(maker() or self.phrase() or self.plain_region())
        return rows

    def draw(self, thing: SampleObject, kind: str) -> np.ndarray:
        mask = self.sample.labels[0] == thing.id
        if kind == "rough":
            return noisy_mask(mask, self.rng, self.sample.labels[0])
        if kind == "box":
            # from tight to as loose as the paper's boxes: people draw most of theirs closely
            return prompts.box_prompt(mask, self.rng, self.rng.uniform(0, 0.1))
        if kind != "point":
            return prompts.simulated_prompt(mask, self.rng, kind)
        if self.rng.random() < self.builder.config.centre:
            point = next_click(mask, None)
            x, y = point.x, point.y
        else:
            rows, cols = np.nonzero(mask)
            pick = int(self.rng.integers(len(rows)))
            x, y = cols[pick] + 0.5, rows[pick] + 0.5
        return prompts.disc(mask.shape, x, y, self.rng.uniform(*self.builder.config.click_radius))

    def plain_region(self) -> Row:
        thing = self.pick()
        region = self.draw(thing, "point" if self.rng.random() < 0.5 else "mask")
        return self.row("intseg", Query(regions=1), region[None], [thing], [0])

    def phrase(self) -> Row | None:
        named = [o for o in self.objects if o.phrases]
        if not named:
            return None
        thing = named[int(self.rng.integers(len(named)))]
        text = str(self.rng.choice(list(thing.phrases)))
        if self.words.random() < self.builder.config.reword:
            text = reword(text, thing.category, {o.category for o in self.objects}, self.words)
        return self.row("refseg", Query(phrases=(text,)), None, [thing], [0])

    def categories(self) -> Row | None:
        if not self.sample.complete:
            return None
        names = sorted({o.category for o in self.objects})
        names = [names[i] for i in self.rng.permutation(len(names))[:4]]
        things = [o for o in self.objects if o.category in names]
        return self.row("genseg", Query(phrases=tuple(names)), None, things, [names.index(o.category) for o in things])

    def alike(self) -> Row | None:
        if not self.sample.complete:
            return None
        thing = self.pick()
        things = [o for o in self.objects if o.category == thing.category]
        return self.row("vgdseg", Query(regions=1), self.draw(thing, "mask")[None], things, [0] * len(things))

    def pick(self) -> SampleObject:
        return self.objects[int(self.rng.integers(len(self.objects)))]

    def row(self, task: str, query: Query, regions, things: Sequence[SampleObject], labels, guidance=None) -> Row:
        free = self.rng.random() < self.builder.config.free_template
        turn = render(find_task(task, self.modality), query, self.words if free else None)
        tokens = self.builder.encoder.encode(turn, self.patch_grid)
        ids = np.array([o.id for o in things], dtype=self.sample.labels.dtype)
        return Row(
            tokens=expand(tokens, tokens.visual_rows, [self.builder.region_tokens] * query.regions),
            regions=np.zeros((0, *self.sample.labels.shape[1:]), bool) if regions is None else regions,
            masks=self.sample.labels[:, None] == ids[None, :, None, None],
            labels=np.array(labels, dtype=np.int64),
            guidance=guidance,
        )
