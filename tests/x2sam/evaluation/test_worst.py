import json

import numpy as np
from PIL import Image

from x2sam.evaluation.worst import WorstCases, side_by_side


def square(value):
    return lambda: np.full((4, 4, 3), value, np.uint8)


def test_only_the_worst_are_drawn_and_kept(tmp_path):
    worst, drawn = WorstCases(2), []

    def draw(k):
        return lambda: drawn.append(k) or square(k)()

    for k, score in enumerate((0.9, 0.5, 0.7, 0.95, None, 0.1)):
        worst.offer(score, f"clip {k}/x", draw(k))
    assert drawn == [0, 1, 2, 5]
    assert [e["score"] for e in worst.write(tmp_path / "new")] == [0.1, 0.5]
    index = json.loads((tmp_path / "new" / "index.json").read_text())
    assert index[0] == {"rank": 1, "score": 0.1, "key": "clip 5/x", "file": "001_0.100_clip-5-x.png"}
    assert np.asarray(Image.open(tmp_path / "new" / index[1]["file"])).max() == 1


def test_equal_scores_keep_the_first():
    worst = WorstCases(1)
    for k in range(3):
        worst.offer(0.0, str(k), square(k))
    assert [kept[2] for kept in worst._kept] == ["0"]


def test_names_can_leave_no_directory(tmp_path):
    worst = WorstCases()
    worst.offer(0.25, "../../etc/passwd", square(0))
    worst.offer(0.5, "///", square(0))
    (tmp_path / "out").mkdir()
    names = [e["file"] for e in worst.write(tmp_path / "out")]
    assert names == ["001_0.250_etc-passwd.png", "002_0.500_sample.png"]
    assert len(list(tmp_path.iterdir())) == 1


def test_side_by_side():
    picture = np.full((10, 20, 3), 100, np.uint8)
    truth, answer, prompt = np.zeros((3, 10, 20), bool)
    truth[:, :10], answer[:5], prompt[9, 19] = True, True, True
    out = side_by_side(picture, [truth], [answer], prompt)
    assert out.shape == (10, 20 + 8 + 20, 3)
    # Colour 1 is dark red: half of it over half of the picture.
    assert out[0, 0].tolist() == [50 + 64, 50, 50] and out[0, 15].tolist() == [100] * 3
    assert out[0, 9].tolist() == [255, 255, 0]
    assert out[9, 19].tolist() == [255] * 3
    assert (out[:, 20:28] == 255).all()
    assert out[0, 28 + 15].tolist() == [114, 50, 50] and out[9, 28].tolist() == [100] * 3


def test_large_pictures_are_made_smaller():
    assert side_by_side(np.zeros((1920, 100, 3), np.uint8), [], []).shape == (960, 50 + 8 + 50, 3)
