"""Published classifiers, ready for use: text in, a label and its probability out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray

from gpt.batch import Ids, pad
from gpt.classifier import Classifier, Decision
from pipelines.models.embedding import as_list, embed
from pipelines.tokens.tokenizer import Tokenizer, classifier_tokens


@dataclass(frozen=True)
class TextClassifier:
    """A GPT with a classification head and its tokenizer, which names the class of a text."""

    classifier: Classifier
    decision: Decision
    tokenizer: Tokenizer

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.decision.labels

    def probabilities(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float64]:
        """Return the probability of each class for each text, (N, classes). Texts longer than the context are cut."""
        context = self.classifier.gpt.config.context
        sequences = [classifier_tokens(self.tokenizer, text, context) for text in texts]
        return class_probabilities(self.classifier, sequences, batch_size)

    @property
    def n_parameters(self) -> int:
        """The number of weights, those of the classification head included."""
        return sum(weights.numel() for weights in self.classifier.parameters())

    @overload
    def classify(self, texts: str) -> tuple[str, float]: ...  # type: ignore[overload-overlap]
    @overload
    def classify(self, texts: Sequence[str]) -> list[tuple[str, float]]: ...
    def classify(self, texts: str | Sequence[str]) -> tuple[str, float] | list[tuple[str, float]]:
        """Return the label of each text and its probability, which a threshold can make lower than one half.

        A single text gives a single pair.
        """
        probabilities = self.probabilities(as_list(texts))
        classes = self.decision.classes(probabilities)
        found = [(self.labels[each], float(row[each])) for each, row in zip(classes, probabilities, strict=True)]
        return found[0] if isinstance(texts, str) else found

    def embed(self, texts: str | Sequence[str]) -> NDArray[np.float32]:
        """Return an embedding of each text, (N, C), as `LanguageModel.embed` does."""
        gpt = self.classifier.gpt
        return embed(gpt, [classifier_tokens(self.tokenizer, text, gpt.config.context) for text in as_list(texts)])


@torch.inference_mode()
def class_probabilities(classifier: Classifier, sequences: Sequence[Ids], batch_size: int = 64) -> NDArray[np.float64]:
    """Return (N, classes) probabilities in the given order. Sequences of similar length share a batch."""
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    probabilities = np.zeros((len(sequences), classifier.n_classes))
    device = next(classifier.parameters()).device
    for at in range(0, len(order), batch_size):
        rows = order[at : at + batch_size]
        batch = pad([sequences[i] for i in rows], [0] * len(rows)).to(device)
        probabilities[rows] = classifier(batch.inputs, batch.lengths).double().softmax(-1).cpu().numpy()
    return probabilities
