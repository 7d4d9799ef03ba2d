"""The amount of text: what is left to train on, what is held out, and how many examples there are.

A small text is tried, so its numbers are those of a run. The numbers of a large or remote one are estimated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.errors import InputError
from pipelines.numbers import counted
from pipelines.starter.preview import Preview, TriedExamples, try_examples, try_ingest
from pipelines.starter.sources import Task, tasks_of, text_sources
from pipelines.starter.survey import Survey

NEAR = 0.8  # similarity of near duplicates
TRIED_BYTES, TRIED_FILES = 16 << 20, 2_000  # a larger text is not tried
SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
SHARES_OF_MANY = {4e4: 0.05, 2e5: 0.01, 2e6: 0.002, math.inf: 0.0005}
"""Shares that hold out some thousands of documents, by the most documents of a corpus."""
HELD_OUT = 0.04  # share of the text that is enough for validation, and for test
FEWEST_DOCUMENTS = 3  # ingest holds something out of them, whatever the shares
SAMPLE = 1 << 20  # bytes of text


@dataclass(frozen=True)
class Amount:
    """The amount of text.

    is_tried: whether the numbers are exact.
    share: of the documents for validation, and for test.
    train, held_out: bytes of text for training, and for validation or test.
    texts: some of them for training.
    examples: those of training, by task.
    left_out: the tasks that have too few.
    """

    is_tried: bool
    documents: int
    bytes: int
    share: float
    train: float
    held_out: float
    texts: tuple[str, ...]
    examples: dict[str, int]
    left_out: tuple[str, ...] = ()


def amount_of(survey: Survey, clean: Sequence[str]) -> Amount:
    """Return the amount of text, after cleaners.

    Raises:
        InputError: nothing can be held out of it, or an ingest fails.
    """
    tasks = tasks_of(survey)
    if not _is_small(survey):
        return _estimated(survey, tasks)
    preview = _try(survey, clean)
    tried = {task.name: try_examples([source.keys for source in task.sources]) for task in tasks}
    good = {name: examples for name, examples in tried.items() if any(map(examples.are_enough, SHARES))}
    share = _share(preview, list(good.values()))
    if not share:
        has = counted(len(preview.sizes), "document")
        raise InputError(f"{survey.uri} has too little text to train on: {has}; add some.")
    train, validation, test = preview.held_out(share)
    return Amount(
        is_tried=True,
        documents=len(preview.sizes),
        bytes=sum(preview.sizes),
        share=share,
        train=train or sum(preview.sizes) / 2,
        held_out=min(validation, test),
        texts=tuple(_some(preview.training_texts(share))),
        examples={name: int(len(examples.examples) * (1 - 2 * share)) for name, examples in good.items()},
        left_out=tuple(tried.keys() - good.keys()),
    )


def without_unusable(survey: Survey, clean: Sequence[str]) -> Survey:
    """Return a small survey without the kinds of which an ingest finds nothing usable, if there are others."""
    good, bad = [], list(survey.unread)
    for kind in survey.kinds:
        try:
            _try(replace(survey, kinds=(kind,)), clean)
            good.append(kind)
        except InputError as error:
            bad.append(replace(kind, problem=str(error).rstrip(".")))
    return replace(survey, kinds=tuple(good), unread=tuple(bad)) if good else survey


def _try(survey: Survey, clean: Sequence[str]) -> Preview:
    sources = [source.keys for source in text_sources(survey)]
    return try_ingest({"sources": sources, "clean": clean, "near_duplicates": NEAR})


def _is_small(survey: Survey) -> bool:
    files = [file for kind in survey.kinds for file in kind.files]
    is_remote = any("://" in file.uri for file in files)
    return not is_remote and len(files) <= TRIED_FILES and sum(file.bytes for file in files) <= TRIED_BYTES


def _share(preview: Preview, examples: Sequence[TriedExamples]) -> float:
    """Return the smallest share that holds out enough, or something; 0 if there is nothing to hold out."""
    possible = [share for share in SHARES if all(each.are_enough(share) for each in examples)]
    some = [share for share in possible if min(preview.held_out(share))]
    enough = (share for share in some if min(preview.held_out(share)[1:]) >= HELD_OUT * sum(preview.sizes))
    few = SHARES[-1] if len(preview.sizes) >= FEWEST_DOCUMENTS else 0.0
    return next(enough, some[0] if some else few)


def _estimated(survey: Survey, tasks: Sequence[Task]) -> Amount:
    documents, size = sum(kind.records for kind in survey.kinds), survey.text_bytes
    share = next(share for most, share in SHARES_OF_MANY.items() if documents <= most)
    parts = [int(SAMPLE * kind.text_bytes / max(size, 1) / len(kind.texts)) for kind in survey.kinds]
    texts = [text[: max(part, 100)] for part, kind in zip(parts, survey.kinds, strict=True) for text in kind.texts]
    return Amount(
        is_tried=False,
        documents=documents,
        bytes=size,
        share=share,
        train=size * (1 - 2 * share),
        held_out=size * share,
        texts=tuple(_some(texts)),
        examples={task.name: int(task.kind.records * (1 - 2 * share)) for task in tasks},
    )


def _some(texts: Sequence[str]) -> list[str]:
    """Return the first texts that are enough to learn the size of a token from."""
    some, left = [], SAMPLE
    for text in texts:
        some.append(text[:left])
        if (left := left - len(some[-1])) <= 0:
            break
    return some
