"""A published model, ready for use: text in, text or labels out.

A model's folder holds `config.json` and `model.safetensors` (see `gpt.weights`), `tokenizer.json`, and for an
assistant `template.json`.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt.generate import Sampling, generate, stream
from gpt.machine import device
from gpt.model import GPT
from gpt.weights import load_classifier, load_model
from pipelines.corpus.conversation import Message, recent
from pipelines.errors import InputError
from pipelines.models.text_classifier import TextClassifier
from pipelines.tokens.templates import Template, load_template
from pipelines.tokens.tokenizer import Tokenizer
from pipelines.tokens.tokenizers import load_tokenizer


@dataclass(frozen=True)
class LanguageModel:
    """A GPT with its tokenizer: continues text."""

    gpt: GPT
    tokenizer: Tokenizer

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """Token ids of a prompt, unless it is ids already; for an empty one, the token that stands before documents."""
        ids = self.tokenizer.encode(prompt).tolist() if isinstance(prompt, str) else list(prompt)
        return ids or [self.tokenizer.end_of_text]

    @property
    def stop(self) -> list[list[int]]:
        """What ends an answer: the end of the text."""
        return [[self.tokenizer.end_of_text]]

    def complete(
        self,
        prompts: Sequence[str | Sequence[int]],
        max_new_tokens: int = 64,
        temperature: float = 0.8,
        top_k: int | None = 50,
        top_p: float | None = None,
        seed: int = 0,
    ) -> list[str]:
        """What the model writes after each prompt, up to the end of the document; the prompt is not repeated."""
        sampling = Sampling(
            max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, stop=self.stop, seed=seed
        )
        ids = generate(self.gpt, [self.encode(prompt) for prompt in prompts], sampling)
        return [self.tokenizer.decode(row) for row in ids]

    def stream(
        self,
        prompt: str | Sequence[int],
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = 50,
        top_p: float | None = None,
        seed: int = 0,
    ) -> Iterator[str]:
        """`complete` for one prompt, piece by piece. A piece ends where a whole character does."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        tokens = self.tokenizer.token_bytes
        sampling = Sampling(
            max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, stop=self.stop, seed=seed
        )
        for token in stream(self.gpt, self.encode(prompt), sampling):
            if piece := decoder.decode(tokens[token]):
                yield piece
        if rest := decoder.decode(b"", final=True):
            yield rest


@dataclass(frozen=True)
class Assistant(LanguageModel):
    """A GPT that was taught to take its turn in conversations written in its template."""

    template: Template

    @property
    def stop(self) -> list[list[int]]:
        """What ends an answer: the end of turn, or of the text."""
        ends = [self.template.end_ids(self.tokenizer), [self.tokenizer.end_of_text]]
        return ends if ends[0] != ends[1] else ends[:1]

    def prompt(self, messages: str | Sequence[Message], room: int = 1) -> list[int]:
        """The ids of a conversation as the model learnt to read it, ready for `complete` or `stream`.

        Args:
            messages: the last of them waits for an answer; a text is a user's only one.
            room: tokens of the context to leave for the answer. Where there is less, the oldest exchanges go.

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


def as_assistant(base: LanguageModel, template: Template) -> Assistant:
    """A language model that reads a template, whose special tokens are added to its vocabulary; still to be taught."""
    tokenizer = base.tokenizer.with_special(template.special) if template.special else base.tokenizer
    base.gpt.extend(tokenizer.vocabulary)
    return Assistant(base.gpt, tokenizer, template)


def open_model(folder: Path) -> LanguageModel | TextClassifier:
    """The model that a folder holds, on the GPU if there is one.

    Raises:
        InputError: the folder holds no model.
    """
    try:
        tokenizer = load_tokenizer(folder / "tokenizer.json")
        if "labels" in json.loads((folder / "config.json").read_text()):
            classifier, decision = load_classifier(folder, device())
            return TextClassifier(classifier, decision, tokenizer)
        gpt = load_model(folder, device())
    except (ValueError, OSError) as error:
        raise InputError(f"{folder} does not hold a model: {error}.") from None
    if (folder / "template.json").exists():
        return Assistant(gpt, tokenizer, load_template(folder / "template.json"))
    return LanguageModel(gpt, tokenizer)


def open_gpt(folder: Path) -> LanguageModel:
    """The language model that a folder holds.

    Raises:
        InputError: it holds none, or a classifier.
    """
    model = open_model(folder)
    if isinstance(model, TextClassifier):
        raise InputError(f"{folder} holds a classifier; a language model is wanted.")
    return model


def fits(assistant: Assistant, messages: Sequence[Message]) -> bool:
    """Whether there is room in the context for the last of the messages and a token of its answer."""
    try:
        assistant.prompt(messages)
    except ValueError:
        return False
    return True
