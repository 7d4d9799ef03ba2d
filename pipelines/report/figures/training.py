"""Figures about models: curves of training and token embeddings."""

from collections.abc import Iterator, Mapping
from contextlib import suppress

import numpy as np

from pipelines.catalog import runs
from pipelines.errors import InputError
from pipelines.report import charts
from pipelines.report.charts import Axis, Drawn, Series
from pipelines.report.figures.part import Part
from pipelines.report.figures.tokens import token_counts
from pipelines.store.dataset import Dataset
from pipelines.tokens.shards import Tokens

CURVES = (
    ("Loss", Axis("loss"), ("train/loss", "val/loss")),
    ("Validation accuracy", Axis("accuracy"), ("val/accuracy",)),
    ("Learning rate", Axis("learning rate", low=0), ("train/learning_rate",)),
    ("Gradient norm", Axis("norm", low=0), ("train/gradient_norm",)),
    ("Throughput", Axis("tokens/s", low=0), ("train/tokens_per_second",)),
)

DRAWN: dict[str, tuple[str, Drawn]] = {"train": ("training", "line"), "val": ("validation", "both")}

POINTS, NAMED = 500, 250  # tokens in the plane, and tokens among them with a name


def model_parts(dataset: Dataset, inputs: Mapping[str, Dataset]) -> Iterator[Part]:
    """Yield the parts about a model: curves and texts of training and, for a language model, token embeddings."""
    yield from training_parts(dataset)
    if dataset.manifest.statistics.get("task") == "language":
        yield from embedding_parts(dataset, inputs.get("tokens"))


def training_parts(dataset: Dataset) -> Iterator[Part]:
    """Yield the curves of a training and the texts that the model wrote meanwhile, as MLflow recorded them."""
    curves, written = read_record(dataset)
    if not curves:
        yield Part("Curves", "MLflow has no record of this training here: it was done elsewhere or is deleted.")
    for title, axis, metrics in CURVES:
        series, rows = [], []
        for metric in metrics:
            if points := curves.get(metric):
                steps, values = zip(*points, strict=True)
                name, drawn = DRAWN[metric.partition("/")[0]]
                series.append(Series(name, steps, values, drawn))
                rows.append((metric, len(points), steps[-1], f"{values[-1]:.4g}", f"{min(values):.4g}"))
        if series:
            svg = charts.lines(series, Axis("step"), axis)
            yield Part(title, svg=svg, columns=("metric", "points", "last step", "last", "lowest"), rows=rows)
    if written:
        texts = [(f"after step {int(''.join(c for c in name if c.isdigit()) or 0):,}", text)
                 for name, text in sorted(written.items())]  # fmt: skip
        yield Part("Text written during training", texts=texts)


def read_record(model: Dataset) -> tuple[dict[str, list[tuple[int, float]]], dict[str, str]]:
    """Return the curves of a training and the texts that the model wrote meanwhile; empty if MLflow has none."""
    run = model.manifest.built.get("mlflow_run_id")
    where = runs.tracking_uri(model.folder.parents[1])
    curves: dict[str, list[tuple[int, float]]] = {}
    with suppress(InputError):
        curves = runs.curves(where, run) if run else {}
        return curves, runs.texts(where, run, "samples") if run else {}
    return curves, {}


def embedding_parts(dataset: Dataset, tokens: Dataset | None) -> Iterator[Part]:
    """Yield the token embeddings in the plane, with the nearest neighbours of each."""
    from pipelines.models.language_model import open_gpt

    model = open_gpt(dataset.path)
    vectors = model.gpt.tokens.weight.detach().float().cpu().numpy()  # (V, C)
    texts = [token.decode("utf-8", "replace") for token in model.tokenizer.token_bytes]
    counts = token_counts(Tokens(tokens)) if tokens else np.arange(len(texts))[::-1]
    words = [i for i in np.argsort(-counts, kind="stable") if texts[i].strip().isalpha() and counts[i]][:POINTS]
    if len(words) < 3:
        return
    seen = np.flatnonzero(counts)
    centred = vectors - vectors[seen].mean(axis=0)
    chosen = centred[words]
    _, scales, axes = np.linalg.svd(chosen - chosen.mean(axis=0), full_matrices=False)
    plane = (chosen - chosen.mean(axis=0)) @ axes[:2].T  # (N, 2)
    plane *= np.where(plane[np.abs(plane).argmax(axis=0), [0, 1]] < 0, -1, 1)  # the sign is arbitrary: fix it
    share = (scales[:2] ** 2).sum() / max((scales**2).sum(), 1e-12)
    unit = centred[seen] / np.maximum(np.linalg.norm(centred[seen], axis=1, keepdims=True), 1e-12)
    place = {int(token): at for at, token in enumerate(seen)}
    likeness = unit[[place[int(i)] for i in words]] @ unit.T  # (N, used)
    near = np.argsort(-likeness, axis=1, kind="stable")[:, 1:7]  # the nearest is the token itself
    neighbours = [[(texts[seen[j]], likeness[row, j]) for j in near[row]] for row in range(len(words))]
    points = [
        (float(x), float(y), texts[i].strip(), f"{texts[i]!r}: near " + ", ".join(repr(t) for t, _ in neighbours[row]))
        for row, (i, (x, y)) in enumerate(zip(words, plane, strict=True))
    ]
    yield Part(
        "Token embeddings in two dimensions",
        f"The {len(words)} most frequent tokens that are words or parts of words, along the two principal components, "
        f"which hold {share:.0%} of their variance. Each point names its nearest neighbours.",
        charts.cloud(points, NAMED, "token embeddings along two principal components"),
        ("token", "nearest neighbours, with cosine similarity"),
        [
            (repr(texts[i]), ", ".join(f"{text!r} {value:.2f}" for text, value in neighbours[row]))
            for row, i in enumerate(words)
            if len(texts[i].strip()) > 2
        ][:60],
        wide=True,
    )
