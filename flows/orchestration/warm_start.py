"""Warm start: pretraining continues from a published model, with its weights and its tokenizer."""

from collections.abc import Callable
from contextlib import suppress

from flows.console import say
from flows.home import Home
from pipelines.catalog.registry import CHAMPION, champion, find_model
from pipelines.chain import Base
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset


def find_base_model(reference: str, name: str, home: Home, warn: Callable[[str], None]) -> Dataset | None:
    """Return the model to continue from; None for the champion of a run that has none yet. See `find_base`."""
    store, uri = home.store, home.mlflow_uri
    model = champion(name, store, uri) if reference == CHAMPION else find_model(reference, store, uri, warn)
    if model and (task := model.manifest.statistics.get("task")) != "language":
        raise InputError(f"base: {model} was fine-tuned ({task}); pretraining goes on from pretrained models.")
    return model


def find_base(reference: str, name: str, home: Home) -> Base | None:
    """Return the model to continue from; None for the champion of a run that has none yet.

    Args:
        reference: `champion` (the run's own), or a model as the command line names it.
        name: the run's.

    Raises:
        InputError: there is no such model, or it was fine-tuned.
    """
    model = find_base_model(reference, name, home, say)
    if model is None:
        say(f"{name} has no champion yet to go on from; training from the start")
        return None
    tokens = model.manifest.inputs.get("tokens")
    with suppress(InputError):  # the tokens may have been deleted
        return Base(model, home.store.open(tokens) if tokens else None)
    return Base(model, None)
