"""A JPEG file of 200 megapixels, and a process that answers a click on it and tells how much memory that took."""

from __future__ import annotations

import io
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 16384, 12288
_STRIP = 64  # eight rows of blocks: as many as there are numbers of restart markers

CONFIG = """<View><Image name="image" value="$image"/>
<{tag} name="mask" toName="image" smart="false"><Label value="Object"/></{tag}>
<KeyPointLabels name="point" toName="image" smart="true"><Label value="Object"/></KeyPointLabels></View>"""


def huge_jpeg() -> bytes:
    """Grey stripes. Each row of blocks starts anew, so one strip is coded and repeated: nothing large is needed."""
    stripes = np.tile(np.arange(WIDTH) // 64 % 2 * 80 + 80, (_STRIP, 1)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(stripes).save(file, "JPEG", quality=50, restart_marker_rows=1)
    content = file.getvalue()
    size = content.index(b"\xff\xc0") + 5
    scan = content.index(b"\xff\xda")
    data = scan + 2 + int.from_bytes(content[scan + 2 : scan + 4], "big")
    head = content[:size] + HEIGHT.to_bytes(2, "big") + content[size + 2 : data]
    return head + b"\xff\xd7".join([content[data:-2]] * (HEIGHT // _STRIP)) + b"\xff\xd9"


class SmallSession:
    """Answers with a square of a tenth of the picture around the click, and takes no memory to speak of."""

    def __init__(self, frames):
        self._frames = frames

    def segment(self, prompt, frame=0, **_options):
        from x2sam.structures import Mask

        mask = np.zeros(self._frames[frame].shape[:2], bool)
        reach = max(mask.shape) // 20
        (point,) = prompt.points
        x, y = int(point.x), int(point.y)
        mask[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach] = True
        return [Mask(mask, 0.9, prompt.object_id or "")]

    def segment_all(self, asked, **options):
        return [self.segment(prompt, frame) for prompt, frame in asked]

    def close(self):
        pass


class SmallEngine:
    name, version, device, remembers, words = "small", "small-0001", "cpu", True, ()

    def open(self, frames, key=None):
        return SmallSession(frames)

    def close(self):
        pass


def answer(folder: Path, name: str, tag: str, x: float, y: float) -> dict:
    """Clicks on a file of a folder. Memory is in megabytes: what the process had before, and its peak."""
    from backend.app import close_services, create_app
    from backend.settings import Settings

    settings = Settings(
        media_dirs=(str(folder),), media_cache_dir=str(folder / "cache"), state_dir=str(folder / "state")
    )
    app = create_app(settings, SmallEngine)
    click = {"x": x, "y": y, "width": 0.2, "keypointlabels": ["Object"]}
    item = {"id": "a", "from_name": "point", "to_name": "image", "type": "keypointlabels", "value": click}
    body = {
        "tasks": [{"id": 1, "data": {"image": name}}],
        "label_config": CONFIG.format(tag=tag),
        "params": {"context": {"result": [item]}},
    }
    before, start = _peak(), time.monotonic()
    reply = app.test_client().post("/predict", json=body)
    told = {"before": before, "peak": _peak(), "seconds": time.monotonic() - start, "status": reply.status_code}
    close_services(app.extensions["x2sam"])
    return told | {"answer": reply.json}


def _peak() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # there the other number begins with that of whoever started this process
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    print(json.dumps(answer(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]), float(sys.argv[5]))))
