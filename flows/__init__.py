"""The Prefect flows, the command line, experiment tracking and local servers."""

import os
import sys
from pathlib import Path
from typing import Any


def _end_on_ctrl_c(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """End the command line with one line at Ctrl-C while it imports; show any other error."""
    if kind is KeyboardInterrupt:
        os.write(2, b"tokenmill: interrupted\n")
        os._exit(130)
    sys.__excepthook__(kind, error, trace)


if Path(sys.argv[0]).name == "tokenmill" or {"flows.cli", "tokenmill"}.intersection(sys.orig_argv):
    sys.excepthook = _end_on_ctrl_c

import pipelines  # noqa: E402, F401 - sets the variables about proxies
from flows.current_folder import leave_settings_aside, protect_module  # noqa: E402

SETTINGS = {
    # No telemetry.
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # A run has its own patience with servers (flows/tracking/outages.py).
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # MLflow would print two lines for each step; a link is printed when a run ends.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # PyTorch would keep compiled headers in a folder of /tmp whose name everybody knows, whatever its cache is.
    "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
}
"""Settings of other packages. They are set here because the packages read some of them when they are imported."""

for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)  # a value that the user has set is kept

protect_module()
leave_settings_aside()
