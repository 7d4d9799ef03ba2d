"""Our models as MLflow models: `mlflow.pyfunc` loads them and `mlflow models serve` serves them. They hold no pickle.

MLflow calls this "models from code". It stores `pyfunc_model.py`, the packages that this imports and the model's
files, and runs the script to load the model.
"""

import logging
import os
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from pipelines.store.dataset import Dataset
from pipelines.store.modes import close

ROOT = Path(__file__).resolve().parents[2]


PACKAGES = (
    "filelock", "fsspec", "numpy", "orjson", "pandas", "pyarrow", "pydantic", "regex", "safetensors", "tiktoken",
    "tokenizers", "torch",
)  # fmt: skip
"""The packages that a model's code imports, which a machine that serves the model has to install."""


def log_model(dataset: Dataset, run_id: str) -> Any:
    """Log a published model to a run; return MLflow's ModelInfo."""
    if dataset.manifest.statistics.get("task") == "classification":
        outputs = Schema([ColSpec("string", "label"), ColSpec("double", "probability")])
        params = ParamSchema([])
        example: Any = pd.DataFrame({"text": ["Congratulations, you have won a prize! Call now."]})
    else:
        outputs = Schema([ColSpec("string", "text")])
        settings = [("max_new_tokens", "long", 64), ("temperature", "double", 0.8), ("top_k", "long", 50)]
        params = ParamSchema([ParamSpec(*setting) for setting in [*settings, ("seed", "long", 0)]])
        example = pd.DataFrame({"text": ["In the beginning"]}), {"max_new_tokens": 8}  # MLflow runs the example
    signature = ModelSignature(Schema([ColSpec("string", "text")]), outputs, params)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"model": dataset.path.as_uri()},
            code_paths=[str(ROOT / "gpt"), str(ROOT / "pipelines")],
            signature=signature,
            input_example=example,
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in PACKAGES],
            metadata={"fingerprint": dataset.ref.fingerprint, "dataset": str(dataset.ref)},
        )
    if is_local_uri(info.artifact_path):
        close(Path(local_file_uri_to_path(info.artifact_path)))
    return info
