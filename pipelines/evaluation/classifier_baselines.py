"""Classifiers without a GPT, as baselines."""

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

Predict = Callable[[Sequence[str]], NDArray[np.float64]]
"""N texts to the probability of each class for each text, (N, classes)."""


def majority_class(texts: Sequence[str], targets: NDArray[np.int64], n_classes: int) -> Predict:
    """Return a classifier that answers every text with the class frequencies of training."""
    frequencies = np.bincount(targets, minlength=n_classes) / len(targets)
    return lambda texts: np.tile(frequencies, (len(texts), 1))


def handmade_features(texts: Sequence[str], targets: NDArray[np.int64], n_classes: int) -> Predict:
    """Fit logistic regression on what the author of a spam filter would count (FEATURES)."""
    regression = LogisticRegression(max_iter=1000)
    pipeline = make_pipeline(FunctionTransformer(count_features), StandardScaler(), regression)
    return _fit(pipeline, texts, targets, n_classes)


def tfidf(texts: Sequence[str], targets: NDArray[np.int64], n_classes: int) -> Predict:
    """Fit logistic regression on TF-IDF of words and pairs of words, which a good engineer tries first.

    The settings are scikit-learn's defaults, except sublinear term frequency, pairs of words, and C=10 as usual for
    sparse text.
    """
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    try:
        return _fit(make_pipeline(vectorizer, LogisticRegression(C=10, max_iter=1000)), texts, targets, n_classes)
    except ValueError:  # no text has a word in it
        return majority_class(texts, targets, n_classes)


BASELINES: dict[str, Callable[[Sequence[str], NDArray[np.int64], int], Predict]] = {
    "TF-IDF logistic regression": tfidf,
    "hand-made features": handmade_features,
    "majority class": majority_class,
}
"""By name: (training texts, (N,) their classes, number of classes) to a classifier."""


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


def _fit(pipeline: Pipeline, texts: Sequence[str], targets: NDArray[np.int64], n_classes: int) -> Predict:
    pipeline.fit(list(texts), targets)

    def predict(texts: Sequence[str]) -> NDArray[np.float64]:
        probabilities = np.zeros((len(texts), n_classes))
        probabilities[:, pipeline.classes_] = pipeline.predict_proba(list(texts))
        return probabilities

    return predict
