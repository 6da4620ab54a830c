"""Similarity of phrases by a text encoder in a local directory, as GLaMM's recall uses a BERT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from x2sam.errors import WeightsError


class EncoderSimilarity:
    """Cosine of the mean of the last states of an encoder that transformers can load. Nothing is downloaded.

    Raises WeightsError where ``directory`` holds no such model.
    """

    def __init__(self, directory: str | Path):
        from transformers import AutoModel, AutoTokenizer

        if not Path(directory).is_dir():
            raise WeightsError(f"{directory} is no directory; name one with a text encoder and its tokenizer")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            self.model = AutoModel.from_pretrained(directory, local_files_only=True).eval()
        except (OSError, ValueError) as problem:
            raise WeightsError(f"{directory} holds no text encoder ({problem}); copy it again") from problem

    def __call__(self, phrases: Sequence[str], others: Sequence[str]) -> np.ndarray:
        """Similarity (P, G)."""
        return self._states(phrases) @ self._states(others).T

    def _states(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (n, C)."""
        import torch

        coded = self.tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True)
        with torch.inference_mode():
            states = self.model(**coded).last_hidden_state
        shown = coded["attention_mask"][..., None]
        mean = (states * shown).sum(1) / shown.sum(1)
        return torch.nn.functional.normalize(mean.float(), dim=-1).numpy()
