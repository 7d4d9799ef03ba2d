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

import numpy as np
import torch
from numpy.typing import NDArray

from gpt.batch import Ids, pad
from gpt.classifier import Classifier, Decision
from gpt.generate import Sampling, generate, stream
from gpt.machine import device
from gpt.model import GPT
from gpt.weights import load_classifier, load_model
from pipelines.errors import InputError
from pipelines.templates import Message, Template, load_template, recent
from pipelines.tokenizers import Tokenizer, load_tokenizer


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


@dataclass(frozen=True)
class TextClassifier:
    """A GPT with a classification head and its tokenizer: names the class of a text."""

    classifier: Classifier
    decision: Decision
    tokenizer: Tokenizer

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.decision.labels

    def probabilities(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float64]:
        """The probability of each class for each text, (N, classes). Texts longer than the context are cut."""
        context = self.classifier.gpt.config.context
        sequences = [classifier_tokens(self.tokenizer, text, context) for text in texts]
        return class_probabilities(self.classifier, sequences, batch_size)

    def classify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """The label of each text and its probability. Below one half where a threshold chose the less likely label."""
        probabilities = self.probabilities(texts)
        classes = self.decision.classes(probabilities)
        return [(self.labels[each], float(row[each])) for each, row in zip(classes, probabilities, strict=True)]


def classifier_tokens(tokenizer: Tokenizer, text: str, context: int) -> list[int]:
    """The tokens that a classifier reads: the text's, cut to leave room for the end-of-text token behind it.

    The classifier reads its answer off that last token, which is there even when the text is empty.
    """
    return [*tokenizer.encode(text)[: context - 1].tolist(), tokenizer.end_of_text]


@torch.inference_mode()
def class_probabilities(classifier: Classifier, sequences: Sequence[Ids], batch_size: int = 64) -> NDArray[np.float64]:
    """(N, classes) probabilities. Sequences of like length share a batch; the result is in the given order."""
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    probabilities = np.zeros((len(sequences), classifier.n_classes))
    where = next(classifier.parameters()).device
    for at in range(0, len(order), batch_size):
        rows = order[at : at + batch_size]
        batch = pad([sequences[i] for i in rows], [0] * len(rows)).to(where)
        probabilities[rows] = classifier(batch.inputs, batch.lengths).double().softmax(-1).cpu().numpy()
    return probabilities


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
