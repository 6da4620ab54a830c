"""The mean of several trained models: ``python -m x2sam.training.average MODEL MODEL... --out DIR``.

Models that were trained on from the same weights lie in one valley, and the middle of it is often better than each of
them (Wortsman et al., 2022, "Model soups").
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from x2sam.errors import WeightsError

WEIGHTS = "model.safetensors"


def average(models: Sequence[Path], out: Path) -> None:
    """Writes the model whose every weight is the mean of that of ``models``; what is no number with a fraction, the
    configuration and the tokenizer are those of the first.

    :raises WeightsError: a model can't be read, or they do not have the same weights.
    """
    if len(models) < 2:
        raise WeightsError("name two models or more: one has no mean")
    if len({(model / "config.json").read_bytes() for model in models}) > 1:
        raise WeightsError("the models have different configurations; only models of one make can be averaged")
    try:
        files = [safe_open(model / WEIGHTS, "pt") for model in models]
        names = set(files[0].keys())
        for model, file in zip(models, files, strict=True):
            if set(file.keys()) != names:
                raise WeightsError(f"{model} has other weights than {models[0]}")
        means = {name: _mean([file.get_tensor(name) for file in files]) for name in sorted(names)}
    except (OSError, SafetensorError) as problem:
        raise WeightsError(f"a model can't be read: {problem}") from problem
    shutil.copytree(models[0], out, ignore=shutil.ignore_patterns("*.md", "scores.json", WEIGHTS), dirs_exist_ok=True)
    save_file(means, out / WEIGHTS, metadata=files[0].metadata())


def _mean(values: Sequence[torch.Tensor]) -> torch.Tensor:
    if not values[0].is_floating_point():
        return values[0]
    return torch.stack([value.float() for value in values]).mean(0).to(values[0].dtype)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="directory of a trained model")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    average(options.models, options.out)
    print(f"the mean of {len(options.models)} models is in {options.out}")


if __name__ == "__main__":
    main()
