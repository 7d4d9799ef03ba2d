"""Warm start: pretraining continues from a published model, with its weights and its tokenizer."""

from collections.abc import Callable
from contextlib import suppress

from flows.console import say
from flows.home import Home
from flows.tracking.registry import find_model
from pipelines.catalog.registry import CHAMPION, champion
from pipelines.chain import Base
from pipelines.config import RunConfig
from pipelines.errors import InputError


def find_base(config: RunConfig, until: str, home: Home, say: Callable[[str], None] = say) -> Base | None:
    """Return the model that a run continues from; None if there is none, or it has no champion yet.

    Args:
        config: the run. Its `base` is `champion` (the run's own), or a model as the command line names it.
        until: the last step; ingest needs no model.
        home: the home whose models these are.
        say: receives a sentence if there is no champion yet.

    Raises:
        InputError: there is no such model, or it was fine-tuned.
    """
    if not config.base or until == "ingest":
        return None
    if config.base == CHAMPION:
        model = champion(config.name, home.store, home.mlflow_uri)
    else:
        try:
            model = find_model(config.base, home)
        except InputError as error:
            raise InputError(f"base: {error}") from None
    if model is None:
        say(f"{config.name} has no champion yet to continue from; training from the start")
        return None
    if (task := model.manifest.statistics.get("task")) != "language":
        raise InputError(f"base: {model} was fine-tuned ({task}); pretraining goes on from pretrained models.")
    tokens = model.manifest.inputs.get("tokens")
    with suppress(InputError):  # the tokens may have been deleted
        return Base(model, home.store.open(tokens) if tokens else None)
    return Base(model, None)
