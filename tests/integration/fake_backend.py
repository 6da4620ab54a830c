"""The ML backend with the stand-in engine: ``python fake_backend.py PORT``, configured by the environment."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "backend")]

from fake_engine import FakeEngine  # noqa: E402

from backend.app import create_app  # noqa: E402
from backend.settings import Settings  # noqa: E402

if __name__ == "__main__":
    create_app(Settings.from_environment(), FakeEngine).run(port=int(sys.argv[1]), threaded=True)
