"""Published language models and assistants, ready for use: text in, text out.

A model's folder holds `config.json` and `model.safetensors` (see `gpt.weights`), `tokenizer.json`, and for an
assistant `template.json`.
"""

import codecs
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from gpt.generate import Sampling, generate, stream
from gpt.machine import device
from gpt.model import GPT
from gpt.weights import load_classifier, load_model
from pipelines.corpus.conversation import Message, recent
from pipelines.errors import InputError
from pipelines.models.embedding import as_list, embed
from pipelines.models.text_classifier import TextClassifier
from pipelines.store.dataset import Dataset
from pipelines.tokens.templates import Template, load_template
from pipelines.tokens.tokenizer import Tokenizer
from pipelines.tokens.tokenizers import load_tokenizer

SAMPLING = Sampling(64, temperature=0.8, top_k=50)
"""How text is drawn if nothing else is asked for."""

ANSWER = Sampling(120)
"""The same for answers in a conversation: the likeliest tokens."""


@dataclass(frozen=True)
class LanguageModel:
    """A GPT with its tokenizer, which continues text."""

    gpt: GPT
    tokenizer: Tokenizer

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """Return the ids of a prompt, which may be ids already. An empty prompt is the token before a document."""
        ids = self.tokenizer.encode(prompt).tolist() if isinstance(prompt, str) else list(prompt)
        return ids or [self.tokenizer.end_of_text]

    @property
    def stop(self) -> list[list[int]]:
        """The ids that end an answer: the end of the text."""
        return [[self.tokenizer.end_of_text]]

    @property
    def n_parameters(self) -> int:
        """The number of weights; a head that is tied to the embedding counts once."""
        return sum(weights.numel() for weights in self.gpt.parameters())

    @overload
    def complete(self, prompts: str, sampling: Sampling = SAMPLING, **settings: Any) -> str: ...
    @overload
    def complete(
        self, prompts: Sequence[str | Sequence[int]], sampling: Sampling = SAMPLING, **settings: Any
    ) -> list[str]: ...
    def complete(
        self, prompts: str | Sequence[str | Sequence[int]], sampling: Sampling = SAMPLING, **settings: Any
    ) -> str | list[str]:
        """Continue each prompt up to the end of the document, and return the new text only.

        Args:
            prompts: texts or ids. A single text gives a single text.
            sampling: how to draw tokens. Its `stop` is replaced by the model's.
            settings: fields of `Sampling` to change, such as `max_new_tokens=20` or `temperature=0`.
        """
        several = [prompts] if isinstance(prompts, str) else prompts
        ids = generate(
            self.gpt, [self.encode(prompt) for prompt in several], replace(sampling, **settings, stop=self.stop)
        )
        texts = [self.tokenizer.decode(row) for row in ids]
        return texts[0] if isinstance(prompts, str) else texts

    def embed(self, texts: str | Sequence[str]) -> NDArray[np.float32]:
        """Return an embedding of each text, (N, C): the mean of its hidden states after the last norm.

        C is the model's width. A text that is longer than the context is cut.
        """
        return embed(self.gpt, [self.encode(text) for text in as_list(texts)])

    def stream(self, prompt: str | Sequence[int], sampling: Sampling = SAMPLING) -> Iterator[str]:
        """Yield the text that `complete` returns for one prompt, in pieces of whole characters."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        tokens = self.tokenizer.token_bytes
        for token in stream(self.gpt, self.encode(prompt), replace(sampling, stop=self.stop)):
            if piece := decoder.decode(tokens[token]):
                yield piece
        if rest := decoder.decode(b"", final=True):
            yield rest


@dataclass(frozen=True)
class Assistant(LanguageModel):
    """A GPT that answers in conversations, which are written in its template."""

    template: Template

    @property
    def stop(self) -> list[list[int]]:
        """The ids that end an answer: the end of turn, or of the text."""
        ends = [self.template.end_ids(self.tokenizer), [self.tokenizer.end_of_text]]
        return ends if ends[0] != ends[1] else ends[:1]

    def prompt(self, messages: str | Sequence[Message], room: int = 1) -> list[int]:
        """Return the ids of a conversation in the model's template, ready for `complete` or `stream`.

        Args:
            messages: a conversation whose last message waits for an answer, or the text of a single message.
            room: tokens of the context to leave for the answer. The oldest exchanges are dropped to keep it free.

        Raises:
            ValueError: the last message alone is longer than what is left of the context.
        """
        if isinstance(messages, str):
            messages = [Message(role="user", content=messages)]
        most = self.gpt.config.context - room
        kept = recent(messages, lambda some: len(self.template.prompt(self.tokenizer, some)) <= most)
        if kept is None:
            raise ValueError(f"the message is longer than the {most} tokens that the model can read before its answer")
        return self.template.prompt(self.tokenizer, kept)

    def chat(
        self, messages: str | Sequence[Message | Mapping[str, str]], sampling: Sampling = ANSWER, **settings: Any
    ) -> str:
        """Answer the last message of a conversation.

        Args:
            messages: `{"role": "user", "content": "..."}` each, or the text of a single message.
            sampling: how to draw tokens.
            settings: fields of `Sampling` to change.

        Raises:
            ValueError: the last message is longer than the context.
        """
        sampling = replace(sampling, **settings)
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        room = min(sampling.max_new_tokens, self.gpt.config.context // 2)
        prompt = self.prompt([Message.model_validate(message) for message in messages], room)
        return self.complete([prompt], sampling)[0].strip()


def as_assistant(base: LanguageModel, template: Template) -> Assistant:
    """Return an untrained assistant: a language model with a template, whose special tokens it gets."""
    tokenizer = base.tokenizer.with_special(template.special) if template.special else base.tokenizer
    base.gpt.extend(tokenizer.vocabulary)
    return Assistant(base.gpt, tokenizer, template)


def open_model(folder: Path | str) -> LanguageModel | TextClassifier:
    """Open the model in a folder, on the GPU if there is one. The files of a published model are checked first.

    Raises:
        Damaged: a file is not as it was published.
        InputError: the folder holds no model.
    """
    folder = Path(folder).expanduser()
    if published := Dataset.load(folder, moved=True):
        folder = published.path
    try:
        tokenizer = load_tokenizer(folder / "tokenizer.json")
        if "labels" in json.loads((folder / "config.json").read_bytes()):
            classifier, decision = load_classifier(folder, device())
            _check_fit(tokenizer, classifier.gpt)
            return TextClassifier(classifier, decision, tokenizer)
        gpt = load_model(folder, device())
        _check_fit(tokenizer, gpt)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise InputError(f"{folder} does not hold a model: {error}.") from None
    if (folder / "template.json").exists():
        return Assistant(gpt, tokenizer, load_template(folder / "template.json"))
    return LanguageModel(gpt, tokenizer)


def _check_fit(tokenizer: Tokenizer, gpt: GPT) -> None:
    """Raise a ValueError if the tokenizer has ids for which the model has no embedding."""
    if tokenizer.vocabulary > gpt.config.vocabulary:
        raise ValueError(f"its tokenizer has {tokenizer.vocabulary:,} tokens, and it knows {gpt.config.vocabulary:,}")


def open_gpt(folder: Path | str) -> LanguageModel:
    """Open the language model or assistant in a folder.

    Raises:
        InputError: the folder holds no model, or a classifier.
    """
    model = open_model(folder)
    if isinstance(model, TextClassifier):
        raise InputError(f"{folder} holds a classifier; a language model is wanted.")
    return model


def fits(assistant: Assistant, messages: Sequence[Message]) -> bool:
    """Return whether the context has room for the last message and a token of its answer."""
    try:
        assistant.prompt(messages)
    except ValueError:
        return False
    return True
