"""Going on from a model that is there: its weights begin the training, its tokenizer makes the tokens."""

from __future__ import annotations

from dataclasses import dataclass

from flows.home import Home
from flows.models import champion, find_model
from flows.progress import say
from pipelines.catalog.registry import CHAMPION
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.tokens.tokenizer import FILE
from pipelines.tokens.tokenizers import TokenizeConfig


@dataclass(frozen=True)
class Base:
    """A pretrained model, and the tokens that it was trained on, if they are still there."""

    model: Dataset
    tokens: Dataset | None

    def read(self, corpus: Dataset) -> Dataset | None:
        """The tokens in which it has read this very corpus, if it has."""
        tokens = self.tokens
        return tokens if tokens and tokens.manifest.inputs["corpus"].digest == corpus.ref.digest else None


def find_base(reference: str, name: str, home: Home) -> Base | None:
    """The model to go on from; None for the champion of a run that has none yet.

    Args:
        reference: `champion`, the run's own, or a model as the command line names it.
        name: the run's.

    Raises:
        InputError: there is no such model, or it is not one to pretrain.
    """
    model = champion(home, name) if reference == CHAMPION else find_model(reference, home)
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


def with_tokenizer_of(model: Dataset, config: TokenizeConfig) -> TokenizeConfig:
    """The same tokenization by a model's tokenizer, in place of the encoding."""
    return TokenizeConfig(tokenizer=str(model.file(FILE)), shard_tokens=config.shard_tokens)
