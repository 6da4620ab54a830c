"""Answers the requests in the files named on the command line through label_studio_ml (2.x, or the stand-in).

    python replay_through_standin.py LABEL_STUDIO_URL CACHE_FOLDER FILE...

Prints one JSON object: file name -> [status, answer]. Run in a process of its own, since the base class of the model is
chosen when it is imported.
"""

import json
import sys
from pathlib import Path

from fake_engine import FakeEngine
from label_studio_ml.api import init_app
from label_studio_ml.model import LabelStudioMLBase

from backend.app import create_services
from backend.model import X2SAMModel
from backend.settings import Settings


def main() -> None:
    url, folder, *files = sys.argv[1:]
    assert issubclass(X2SAMModel, LabelStudioMLBase)
    settings = Settings(label_studio_url=url, media_cache_dir=folder, state_dir=str(Path(folder) / "state"))
    services = create_services(settings, FakeEngine)
    services.engines.wait(10)
    client = init_app(X2SAMModel.bound_to(services)).test_client()
    answers = {}
    for file in map(Path, files):
        asked = json.loads(file.read_text(encoding="utf-8"))
        answer = client.open(asked["path"], method=asked["method"], json=asked["body"])
        answers[file.stem] = [answer.status_code, answer.json]
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
