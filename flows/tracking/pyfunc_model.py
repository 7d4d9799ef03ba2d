"""The script that MLflow runs to load one of our models. A model's input is a column of texts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from pipelines.models.language_model import SAMPLING, Assistant, open_model
from pipelines.models.text_classifier import TextClassifier


class TokenmillModel(PythonModel):
    """A model as MLflow calls it. A classifier returns labels and probabilities, the others return text."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights."""
        self.model = open_model(Path(context.artifacts["model"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return a row of results for each text."""
        texts = [str(text) for text in model_input["text"]]
        if isinstance(self.model, TextClassifier):
            return pd.DataFrame(self.model.classify(texts), columns=["label", "probability"])
        prompts = [self.model.prompt(text) for text in texts] if isinstance(self.model, Assistant) else texts
        return pd.DataFrame({"text": self.model.complete(prompts, replace(SAMPLING, **(params or {})))})


mlflow.models.set_model(TokenmillModel())
