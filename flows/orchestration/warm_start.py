"""Warm start: pretraining continues from a published model, with its weights and its tokenizer."""

from collections.abc import Callable
from contextlib import suppress

from flows.console import say
from flows.home import Home
from flows.tracking.registry import find_model
from pipelines.catalog.registry import CHAMPION, champion
from pipelines.chain import Base
from pipelines.errors import InputError


def find_base(reference: str, name: str, home: Home, say: Callable[[str], None] = say) -> Base | None:
    """Return the model to continue from; None for the champion of a run that has none yet.

    Args:
        reference: `champion` (the run's own), or a model as the command line names it.
        name: the run's.
        say: receives a sentence if there is no champion yet.

    Raises:
        InputError: there is no such model, or it was fine-tuned.
    """
    model = champion(name, home.store, home.mlflow_uri) if reference == CHAMPION else find_model(reference, home)
    if model is None:
        say(f"{name} has no champion yet to continue from; training from the start")
        return None
    if (task := model.manifest.statistics.get("task")) != "language":
        raise InputError(f"base: {model} was fine-tuned ({task}); pretraining goes on from pretrained models.")
    tokens = model.manifest.inputs.get("tokens")
    with suppress(InputError):  # the tokens may have been deleted
        return Base(model, home.store.open(tokens) if tokens else None)
    return Base(model, None)
