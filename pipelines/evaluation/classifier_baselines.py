"""Classifiers without a GPT, as baselines."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

FEATURES = {
    "length": re.compile(r".", re.DOTALL),
    "digits": re.compile(r"\d"),
    "capitals": re.compile(r"[A-Z]"),
    "links": re.compile(r"(?:https?://|www\.)\S+|\b[\w-]+\.(?:com|net|org|co\.uk)\b", re.IGNORECASE),
    "currency signs": re.compile(r"[$£€¥₹]"),
    "exclamation marks": re.compile(r"!"),
}
"""A feature is the number of matches."""


def count_features(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return (N, features) logarithms of one plus each count."""
    counts = [[len(pattern.findall(text)) for pattern in FEATURES.values()] for text in texts]
    return np.log1p(np.array(counts, np.float64).reshape(len(texts), len(FEATURES)))


MAJORITY = DummyClassifier(strategy="prior")

# The settings are scikit-learn's defaults, except sublinear term frequency, pairs of words, and C=10 as usual for
# sparse text.
TFIDF = make_pipeline(TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)), LogisticRegression(C=10, max_iter=1000))

HANDMADE = make_pipeline(FunctionTransformer(count_features), StandardScaler(), LogisticRegression(max_iter=1000))

BASELINES: dict[str, Any] = {
    "TF-IDF logistic regression": TFIDF,
    "hand-made features": HANDMADE,
    "majority class": MAJORITY,
}
"""Classifiers of scikit-learn by name.

- TF-IDF of words and pairs of words is what a good engineer tries first.
- The features are what the author of a spam filter would count (FEATURES).
- The majority class answers every text with the class frequencies of training.
"""


Predict = Callable[[Sequence[str]], NDArray[np.float64]]
"""N texts to the probability of each class for each text, (N, classes)."""


def fit_baseline(system: str, texts: Sequence[str], targets: NDArray[np.int64], n_classes: int) -> Predict:
    """Train a baseline on texts and their classes (N,). Texts without a word make TF-IDF the majority class."""
    try:
        fitted = clone(BASELINES[system]).fit(list(texts), targets)
    except ValueError:  # no text has a word in it
        fitted = clone(MAJORITY).fit(texts, targets)

    def predict(texts: Sequence[str]) -> NDArray[np.float64]:
        probabilities = np.zeros((len(texts), n_classes))
        probabilities[:, fitted.classes_] = fitted.predict_proba(list(texts))
        return probabilities

    return predict
