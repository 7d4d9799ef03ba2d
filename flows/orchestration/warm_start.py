"""Going on from a model that is there: its weights begin the training, its tokenizer makes the tokens."""

from __future__ import annotations

from flows.console import say
from flows.home import Home
from flows.tracking.registry import find_model
from pipelines.catalog.registry import CHAMPION, champion
from pipelines.chain import Base
from pipelines.errors import InputError


def find_base(reference: str, name: str, home: Home) -> Base | None:
    """The model to go on from; None for the champion of a run that has none yet.

    Args:
        reference: `champion`, the run's own, or a model as the command line names it.
        name: the run's.

    Raises:
        InputError: there is no such model, or it is not one to pretrain.
    """
    model = champion(name, home.store, home.mlflow_uri) if reference == CHAMPION else find_model(reference, home)
    if model is None:
        say(f"{name} has no champion yet to go on from; training from the start")
        return None
    if (task := model.manifest.statistics.get("task")) != "language":
        raise InputError(f"base: {model} was fine-tuned ({task}); pretraining goes on from pretrained models.")
    try:
        return Base(
            model, home.store.open(model.manifest.inputs["tokens"]) if "tokens" in model.manifest.inputs else None
        )
    except InputError:
        return Base(model, None)
