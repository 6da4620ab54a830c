"""From a question about frames to a :class:`Condition`: the language half of a request.

A fixed answer that contains ``<SEG>`` is read together with the question in one pass, nothing is generated; only
grounded captions and chat generate. What depends on the picture alone (visual rows and the language model's keys and
values up to the last of them) is computed once, in :meth:`Interpreter.look`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from x2sam.data.tasks import ItemKind, Task
from x2sam.data.tokenizer import END_OF_TEXT
from x2sam.errors import PicturesOnlyError, PromptError
from x2sam.inference.chat_text import STYLES
from x2sam.inference.conversation import (
    ChatEncoder,
    ExpandedTokens,
    Generated,
    Query,
    Turn,
    expand,
    parse_generated,
    prefix_length,
    render,
)
from x2sam.inference.preprocess import mask_frames, vlm_view
from x2sam.model.mask_decoder import Condition
from x2sam.model.vision_language import VisualRows
from x2sam.model.x2sam import X2SAM, EncodedFrame


@dataclass(eq=False)
class Looked:
    """Frames as the language model has seen them. ``prefix`` holds keys and values of ``prefix_length`` positions."""

    visual: VisualRows
    grid: tuple[int, int, int]
    prefix: DynamicCache | None
    prefix_length: int

    @property
    def nbytes(self) -> int:
        layers = [] if self.prefix is None else self.prefix.layers
        return self.visual.nbytes + sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)

    @property
    def start(self) -> int:
        """The first position that still has to be read."""
        return 0 if self.prefix is None else self.prefix_length

    @contextmanager
    def borrowed(self, count: int = 1) -> Iterator[DynamicCache | None]:
        """The prefix to go on from, for ``count`` questions side by side. Whatever was appended, and however this ends,
        it is left as it was found."""
        layers = [] if self.prefix is None else self.prefix.layers
        # growing a cache makes new tensors, so that the old ones are the prefix, bit by bit and byte by byte
        kept = [(layer.keys, layer.values) for layer in layers]
        try:
            for layer, (keys, values) in zip(layers, kept, strict=True):
                layer.keys, layer.values = (x.expand(count, -1, -1, -1) for x in (keys, values))
            yield self.prefix
        finally:
            for layer, (keys, values) in zip(layers, kept, strict=True):
                layer.keys, layer.values = keys, values


@dataclass(eq=False)
class Reading:
    """A question that was read: ``phrases`` in the order of the condition's classes, the answer's ``text`` if any."""

    condition: Condition | None
    phrases: tuple[str, ...] = ()
    text: str | None = None


class Interpreter:
    """Owns no state but the model and its tokenizer; every call may come from the device's thread only."""

    def __init__(self, model: X2SAM, tokenizer):
        self.model = model
        self.language = model.vision_language
        self.encoder = ChatEncoder(tokenizer, model.config.preprocess.merge, STYLES[model.config.family.chat])
        self.stops = set(tokenizer.convert_tokens_to_ids([self.encoder.style.end, END_OF_TEXT]))

    @property
    def device(self) -> torch.device:
        return self.model.device

    def render(self, task: Task, query: Query, rng: random.Random | None = None, **settings: bool) -> Turn:
        """The turn in the words of this model's family; see :func:`x2sam.inference.chat_text.render`."""
        return render(task, query, rng, style=self.encoder.style, **settings)

    def look(
        self, frames: np.ndarray, task: Task, keep_prefix: bool = True,
        encoded: Callable[[], EncodedFrame] | None = None,
    ) -> Looked:  # fmt: skip
        """``frames`` uint8 (T, H, W, 3); the task's modality decides between picture and clip processing.

        encoded: gives the mask encoder's maps of the first frame, for models whose words look at them too; where it is
                 not given these make them

        Raises PromptError for a clip where the model is one for pictures.
        """
        if task.modality == "video" and not self.model.config.remembers:
            raise PicturesOnlyError.of(self.model.config.name)
        view = vlm_view(frames, task.modality, self.model.config.preprocess)
        grid = torch.tensor([view.grid], device=self.device)
        make = encoded or (lambda: self.encode(frames[0]))
        scene = lambda: self.model.mask_encoder.region_map(make().stage3)  # noqa: E731
        visual = self.language.see(view.patches.to(self.device), grid, scene)
        looked = Looked(visual, view.grid, None, 0)
        if keep_prefix:
            turn = self.render(task, Query(question="?", phrases=("?",), regions=1), answer=False)
            tokens = self.encoder.encode(turn, view.grid)
            # regions stand behind the picture: for the prefix they count as one row each
            expanded = expand(tokens, tokens.visual_rows, [1] * tokens.regions)
            length = prefix_length(expanded)
            looked.prefix, looked.prefix_length = self.language.new_cache(), length
            self._read(looked, _cut(expanded, slice(0, length)), None, looked.prefix)
        return looked

    def pixels(self, frame: np.ndarray) -> Tensor:
        """What the mask encoder wants of a picture uint8 (H, W, 3); for a GPU in memory that is pinned, as only from
        there a copy goes on beside other work."""
        pixels = mask_frames(frame, self.model.config.preprocess).pixels.to(self.model.dtype)
        return pixels.pin_memory() if self.device.type == "cuda" else pixels

    def encode(self, frame: np.ndarray | Tensor) -> EncodedFrame:
        """The mask encoder's maps of a picture uint8 (H, W, 3), or of its :meth:`pixels`."""
        return self.model.encode(self.placed(frame))

    def placed(self, frame: np.ndarray | Tensor) -> Tensor:
        """Pixels of a picture, or those that were made ahead, on the device."""
        pixels = frame if torch.is_tensor(frame) else self.pixels(frame)
        return pixels.to(self.device, non_blocking=True)

    def read(
        self,
        looked: Looked,
        turn: Turn,
        regions: Tensor | None = None,
        share: bool = False,
        until_seg: bool = True,
        mend: bool = True,
    ) -> Condition:
        """The condition of a turn whose answer is known. ``regions`` (n, rows, D) fill the turn's region marks."""
        tokens = self._forced(looked, turn, regions, until_seg, mend)
        start, states = self.states(looked, tokens, regions)
        return self._condition(states, tokens.cond_ids[start:], tokens.seg_ids[start:], share)

    def read_all(self, looked: Looked, questions: Sequence[tuple[Turn, Tensor | None]]) -> list[Condition]:
        """The conditions of several turns about the same frames, each with its regions, read in one pass behind the
        kept prefix; shorter ones are filled up at their ends, which nothing before them looks at."""
        if len(questions) == 1 or looked.prefix is None:
            return [self.read(looked, *question) for question in questions]
        rests = [_cut(self._forced(looked, *question), slice(looked.start, None)) for question in questions]
        length = max(map(len, rests))
        padded = [
            F.pad(self._embedded(rest, regions), (0, 0, 0, length - len(rest)))
            for rest, (_, regions) in zip(rests, questions, strict=True)
        ]
        with looked.borrowed(len(questions)) as cache:
            states = self.language.read(torch.cat(padded), cache=cache)
        return [
            self._condition(states[n : n + 1, : len(rest)], rest.cond_ids, rest.seg_ids, share=False)
            for n, rest in enumerate(rests)
        ]

    def _forced(
        self, looked: Looked, turn: Turn, regions: Tensor | None, until_seg: bool = True, mend: bool = True
    ) -> ExpandedTokens:
        tokens = self._tokens(looked, turn, regions, until_seg, mend)
        if int((tokens.seg_ids >= 0).sum()) != 1:
            raise PromptError("the forced answer needs exactly one <SEG>")
        return tokens

    def states(self, looked: Looked, tokens: ExpandedTokens, regions: Tensor | None) -> tuple[int, Tensor]:
        """(first position, un-normalised states (1, L, D) from there on); with a kept prefix only what follows it."""
        rest = _cut(tokens, slice(looked.start, None))
        with looked.borrowed() as cache:
            return looked.start, self._read(looked, rest, regions, cache)

    @torch.no_grad()
    def generate(
        self, looked: Looked, task: Task, query: Query, limit: int = 256, forced: Sequence[int] | None = None,
        rng: random.Random | None = None, regions: Tensor | None = None,
    ) -> Reading:  # fmt: skip
        """Answers greedily. Masks come from the answer's ``<SEG>``; where it has none or several, the task's own
        template is read behind the words that were generated, so that there is always a condition (chat: no masks).

        ``forced`` gives the ids to take instead of the most likely ones; ``regions`` as in :meth:`read`.
        """
        turn = self.render(task, query, rng, answer=False)
        tokens = self._tokens(looked, turn, regions, until_seg=False)
        start, states, output = self._decode(looked, tokens, regions, limit, forced)
        tokenizer, read = self.encoder.tokenizer, states.shape[1] + start - len(tokens)
        parsed = parse_generated(output, tokenizer, tokens, read, self.encoder.style)
        if not task.segments:
            return Reading(None, parsed.phrases, parsed.text)
        if parsed.fallback or not (parsed.cond_ids >= 0).any():
            return self._force(looked, task, query, parsed, rng, regions)
        condition = self._condition(states, parsed.cond_ids[start:], parsed.seg_ids[start:], task.shares_conditions)
        return Reading(condition, parsed.phrases, parsed.text)

    def _force(
        self, looked: Looked, task: Task, query: Query, parsed: Generated, rng, regions: Tensor | None
    ) -> Reading:
        """Reads the task's template with ``<SEG>``, behind a caption the words that were generated.

        A caption brings its own phrases; where it marked none, all of it is one phrase.
        """
        phrases = query.phrases
        if task.items is ItemKind.NONE:
            phrases = parsed.phrases or (parsed.text or "the main object",)
            query = replace(query, caption=parsed.caption if parsed.phrases else f"<p>{phrases[0]}</p>")
        tokens = self._tokens(looked, self.render(task, query, rng), regions, until_seg=True)
        start, states = self.states(looked, tokens, regions)
        condition = self._condition(states, tokens.cond_ids[start:], tokens.seg_ids[start:], task.shares_conditions)
        return Reading(condition, phrases, parsed.text)

    def _decode(
        self, looked: Looked, tokens: ExpandedTokens, regions: Tensor | None, limit: int, forced: Sequence[int] | None
    ) -> tuple[int, Tensor, list[int]]:
        """(start, states of prompt and read answer (1, L, D), answer ids)."""
        output: list[int] = []
        with looked.borrowed() as prefix:
            cache = self.language.new_cache() if prefix is None else prefix
            parts = [self._read(looked, _cut(tokens, slice(looked.start, None)), regions, cache)]
            while True:
                logits = self.language.word_logits(parts[-1][:, -1])
                output.append(int(logits.argmax(-1)) if forced is None else int(forced[len(output)]))
                ended = output[-1] in self.stops if forced is None else len(output) == len(forced)
                if ended or len(output) >= limit:
                    break
                step = self.language.embed(torch.tensor([[output[-1]]], device=self.device))
                parts.append(self.language.read(step, cache=cache))
        return looked.start, torch.cat(parts, 1), output

    def _tokens(self, looked: Looked, turn: Turn, regions: Tensor | None, until_seg: bool, mend: bool = True):
        tokens = self.encoder.encode(turn, looked.grid, until_seg=until_seg)
        rows = [] if regions is None else [regions.shape[1]] * len(regions)
        expanded = expand(tokens, looked.visual.rows.shape[0], rows, mend)
        most = self.model.config.text["max_position_embeddings"]
        if len(expanded) > most:
            room = most - expanded.visual_rows
            raise PromptError(
                f"the question is too long: it takes {len(expanded) - expanded.visual_rows} tokens, the model has room "
                f"for {room} beside the picture; shorten it, or name fewer things at once"
            )
        return expanded

    def _read(
        self, looked: Looked, tokens: ExpandedTokens, regions: Tensor | None, cache: DynamicCache | None
    ) -> Tensor:
        embeds = self._embedded(tokens, regions)
        visual = torch.from_numpy(tokens.visual_mask)[None].to(self.device)
        seen = bool(tokens.visual_mask.any())
        if seen:
            embeds = embeds.masked_scatter(visual[..., None], looked.visual.rows.to(embeds.dtype))
        return self.language.read(embeds, visual if seen else None, looked.visual.deepstack if seen else None, cache)

    def _embedded(self, tokens: ExpandedTokens, regions: Tensor | None) -> Tensor:
        """Embeddings (1, L, D) of words and regions; visual rows are still missing."""
        embeds = self.language.embed(torch.from_numpy(tokens.token_ids)[None].to(self.device))
        if regions is None:
            return embeds
        mask = torch.from_numpy(tokens.region_mask)[None, :, None].to(self.device)
        return embeds.masked_scatter(mask, regions.to(embeds.dtype))

    def _condition(self, states: Tensor, cond_ids: np.ndarray, seg_ids: np.ndarray, share: bool) -> Condition:
        rows = [torch.from_numpy(np.ascontiguousarray(a))[None].to(self.device) for a in (cond_ids, seg_ids)]
        return self.model.condition(states, *rows, share=share)


def _cut(tokens: ExpandedTokens, part: slice) -> ExpandedTokens:
    return ExpandedTokens(
        tokens.token_ids[part], tokens.labels[part], tokens.cond_ids[part], tokens.seg_ids[part],
        visual_mask=tokens.visual_mask[part], region_mask=tokens.region_mask[part],
    )  # fmt: skip
