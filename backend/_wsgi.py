"""Entry point for ``label-studio-ml start backend`` of label-studio-ml 2.x (see requirements-label-studio-ml.txt).

That command runs this file as a script, from the folder that holds the package.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# As a script, the folder of this file comes first on the path; the package is one above.
sys.path[0:1] = [str(Path(__file__).resolve().parents[1])]

from label_studio_ml.api import init_app  # noqa: E402

from backend import logs  # noqa: E402
from backend.app import create_services  # noqa: E402
from backend.errors import BackendError  # noqa: E402
from backend.model import X2SAMModel  # noqa: E402
from backend.settings import Settings  # noqa: E402
from backend.starting import check_device, check_start  # noqa: E402
from backend.wsgi import load_engine, loader_for  # noqa: E402


def main() -> None:
    """Serves the model through label-studio-ml's own routes, threaded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-p", "--port", type=int, default=9090)
    parser.add_argument("--host", default="127.0.0.1")
    arguments, _ = parser.parse_known_args()
    try:
        settings = Settings.from_environment()
        settings.check_exposure(arguments.host)
        check_start(settings)
        check_device(settings)
    except BackendError as error:
        parser.error(str(error))
    logs.configure(settings.logging_level, settings.log_format)
    services = create_services(settings, lambda: load_engine(settings), loader_for(settings))
    app = init_app(X2SAMModel.bound_to(services), settings.basic_auth_user, settings.basic_auth_pass)
    app.run(host=arguments.host, port=arguments.port, threaded=True)


if __name__ == "__main__":
    main()
