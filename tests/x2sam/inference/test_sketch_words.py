"""Words painted as a sketch: hot where they point to, else the middle; a soft mask that can be overruled."""

from types import SimpleNamespace

import torch

from x2sam.inference.sketch import paint_words


def painted(places: torch.Tensor, seg: torch.Tensor) -> torch.Tensor:
    features = SimpleNamespace(maps=[None, places], mask_features=torch.zeros(1, 4, 16, 16))
    return paint_words(features, SimpleNamespace(seg=seg))


def test_words_that_say_nothing_mean_the_middle():
    out = painted(torch.zeros(1, 4, 8, 8), torch.ones(1, 1, 4))
    assert out.shape == (1, 1, 16, 16)
    assert out.argmax() // 16 in (7, 8) and out.argmax() % 16 in (7, 8)
    # log-odds of 1 in the middle: 0.25 + 0.5 * sigmoid(1) = 0.616 (a little less half a cell beside it)
    assert 0.60 < out.max() < 0.616 and out.min() >= 0.25


def test_words_overrule_the_middle():
    places = torch.zeros(1, 4, 8, 8)
    places[0, 0, 1, 6] = 40.0
    out = painted(places, torch.tensor([[[1.0, 0, 0, 0]], [[-1.0, 0, 0, 0]]]))
    # two prompts about one picture: the first means the corner, the second anything but that
    row, col = divmod(int(out[0, 0].argmax()), 16)
    assert row in (2, 3) and col in (12, 13) and out[0].max() > 0.74
    assert out[1, 0, 3, 13] < 0.27
    assert out.max() <= 0.75
