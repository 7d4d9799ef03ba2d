"""Our models as MLflow models: `mlflow.pyfunc` loads them, `mlflow models serve` answers with them, no pickle inside.

MLflow calls this "models from code": it stores `pyfunc_model.py`, the packages it imports and the model's
files, and runs that script to load.
"""

from __future__ import annotations

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

from pipelines.store.dataset import Dataset

ROOT = Path(__file__).resolve().parents[2]


PACKAGES = (
    "duckdb", "filelock", "fsspec", "numpy", "orjson", "pandas",
    "pyarrow", "pydantic", "regex", "safetensors", "tiktoken", "torch",
)  # fmt: skip
"""What a model's code imports, and so what a machine that serves it has to install."""


def log_model(dataset: Dataset, run_id: str) -> Any:
    """Log a published model to a run; returns MLflow's ModelInfo."""
    classifier = dataset.manifest.statistics.get("task") == "classification"
    if classifier:
        outputs = Schema([ColSpec("string", "label"), ColSpec("double", "probability")])
        params = ParamSchema([])
        example: Any = pd.DataFrame({"text": ["Congratulations, you have won a prize! Call now."]})
    else:
        outputs = Schema([ColSpec("string", "text")])
        params = ParamSchema(
            [
                ParamSpec("max_new_tokens", "long", 64),
                ParamSpec("temperature", "double", 0.8),
                ParamSpec("top_k", "long", 50),
                ParamSpec("seed", "long", 0),
            ]
        )
        example = pd.DataFrame({"text": ["In the beginning"]}), {"max_new_tokens": 8}  # MLflow tries it
    signature = ModelSignature(Schema([ColSpec("string", "text")]), outputs, params)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"model": dataset.path.as_uri()},
            code_paths=[str(ROOT / "gpt"), str(ROOT / "pipelines")],
            signature=signature,
            input_example=example,
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in PACKAGES],
            metadata={"fingerprint": dataset.ref.fingerprint, "dataset": str(dataset.ref)},
        )
