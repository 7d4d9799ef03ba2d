"""The plan of a run: sizes and steps that suit the amount of text and the time that this machine takes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from pipelines.errors import InputError
from pipelines.numbers import size as size_in_units
from pipelines.starter.sources import Source, Task, tasks_of, text_sources
from pipelines.starter.speed import Machine, Size
from pipelines.starter.survey import Survey
from pipelines.starter.trial import Trial, TriedExamples, try_examples, try_ingest
from pipelines.tokens.byte_pairs import train_byte_pairs

TRIED_BYTES, TRIED_FILES = 16 << 20, 2_000  # a larger text is not tried
SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
SAMPLE = 1 << 20  # bytes of text from which the size of a token is learnt
SHORTEST, MOST_CONTEXT = 16, 512  # tokens of a window
NEAR = 0.8
HELD_OUT_WINDOWS = 4
HELD_OUT_DOCUMENTS, HELD_OUT_BYTES = 5, 1_000
EPOCHS = 4  # readings of a text; later ones teach less than new text would (Muennighoff et al. 2023)
FINETUNING = 0.4  # share of the time for the models that are fine-tuned, if there are any
FINETUNING_EPOCHS = 3
FEWEST_STEPS = 30
READ_BYTES = 2e6  # bytes a second that ingest reads and cleans, as measured on two cores
STARTING, EVALUATING = 25.0, 15.0  # seconds of a run, and of each evaluation
VOCABULARIES = {3e8: 16384, 2e7: 8192, 1e6: 4096, 2e5: 2048, 3e4: 1024, 5e3: 512, 0: 320}
"""Token ids of a vocabulary by the bytes of text from which it is worth learning."""


TINY, SMALL = Size(0, 2, 2, 64, 64, 4), Size(3e4, 3, 4, 128, 128, 8)
CPU = (TINY, SMALL, Size(3e5, 4, 4, 256, 128, 16))
GPU = (TINY, SMALL, Size(3e5, 4, 4, 256, 256, 32), Size(1e7, 8, 6, 384, 512, 32), Size(2e8, 12, 12, 768, 1024, 16))


@dataclass(frozen=True)
class Finetuning:
    """The training of a fine-tuned model.

    examples: those of training.
    """

    task: Task
    examples: int
    steps: int
    batch: int
    seconds: float

    @property
    def epochs(self) -> float:
        """How often training reads the examples."""
        return self.steps * self.batch / self.examples


@dataclass(frozen=True)
class Plan:
    """What a config says, and what it was decided by.

    tokens: those of training.
    trial: None if the text is too large to try.
    seconds: the estimated time of a run.
    """

    survey: Survey
    machine: Machine
    sources: tuple[Source, ...]
    clean: tuple[str, ...]
    language: bool
    share: float
    trial: Trial | None
    tokens: int
    bytes_per_token: float
    vocabulary: int | None
    size: Size
    context: int
    steps: int
    step_seconds: float
    finetunings: tuple[Finetuning, ...]
    seconds: float
    notes: tuple[str, ...]

    @property
    def epochs(self) -> float:
        """How often training reads the text."""
        return self.steps * self.size.batch * self.context / max(self.tokens, 1)

    @property
    def dropout(self) -> float:
        """The share of activations that is dropped: a text that is read often is learnt by heart without it."""
        return 0.1 if self.epochs > 2 else 0.0


def make_plan(survey: Survey, machine: Machine) -> Plan:
    """Return a plan for a text.

    Raises:
        InputError: the text is too little, or an ingest of it fails.
    """
    sources, clean, notes = tuple(text_sources(survey)), _clean(survey), []
    tasks, trial = tasks_of(survey), None
    tried: dict[str, TriedExamples] = {}
    if _is_small(survey):
        trial = try_ingest({"sources": [source.keys for source in sources], "clean": clean, "near_duplicates": NEAR})
        tried = {task.name: try_examples([source.keys for source in task.sources]) for task in tasks}
        notes += [
            f"no {name}: its examples are too few" for name, examples in tried.items() if not _share(None, [examples])
        ]
        tasks = [task for task in tasks if _share(None, [tried[task.name]])]
    share = _share(trial, [tried[task.name] for task in tasks]) if trial else _usual_share(survey)
    if not share:
        raise InputError(f"{survey.uri} has too little text to train on: {_amount(survey, trial)}.")
    train, validation, test = trial.held_out(share) if trial else _expected(survey, share)
    vocabulary, size_of_token = _vocabulary(trial.texts if trial else _texts(survey), train)
    tokens, held_out = int(train / size_of_token), int(min(validation, test) / size_of_token)
    size = [each for each in (GPU if machine.has_gpu else CPU) if each.tokens <= tokens][-1]
    context = _context(size, held_out, _wanted(tasks, size_of_token))
    if tokens <= 2 * context:
        raise InputError(f"{survey.uri} has too little text to train on: {_amount(survey, trial)}.")
    step_seconds = machine.seconds_per_step(size, vocabulary or 300, context)
    budget = machine.budget * (1 - FINETUNING if tasks else 1)
    per_step = size.batch * context
    steps = _rounded(max(min(EPOCHS * tokens / per_step, budget / step_seconds), FEWEST_STEPS))
    per_token = step_seconds / per_step
    left = machine.budget * FINETUNING / max(len(tasks), 1)
    counts = {name: len(examples.examples) for name, examples in tried.items()}
    finetunings = [
        _finetuning(
            task, counts.get(task.name, task.kind.records) * (1 - 2 * share), size_of_token, context, per_token, left
        )
        for task in tasks
    ]
    seconds = STARTING + survey.text_bytes / READ_BYTES + steps * step_seconds + EVALUATING * (1 + len(tasks))
    return Plan(
        survey=survey,
        machine=machine,
        sources=sources,
        clean=clean,
        language=_has_languages(survey),
        share=share,
        trial=trial,
        tokens=tokens,
        bytes_per_token=size_of_token,
        vocabulary=vocabulary,
        size=size,
        context=context,
        steps=steps,
        step_seconds=step_seconds,
        finetunings=tuple(finetunings),
        seconds=seconds + sum(each.seconds for each in finetunings),
        notes=tuple(notes),
    )


def _is_small(survey: Survey) -> bool:
    files = [file for kind in survey.kinds for file in kind.files]
    remote = any("://" in file.uri for file in files)
    return not remote and len(files) <= TRIED_FILES and sum(file.bytes for file in files) <= TRIED_BYTES


def _clean(survey: Survey) -> tuple[str, ...]:
    """Return the cleaners: none for source code, whose spaces and signs are meant."""
    code = sum(kind.text_bytes for kind in survey.kinds if kind.format == "code")
    return () if 2 * code > survey.text_bytes else ("unicode", "whitespace")


def _has_languages(survey: Survey) -> bool:
    """Return whether a tenth or more of the texts is not in the language of the others."""
    counts: Counter[str] = Counter()
    for kind in survey.kinds:
        counts.update(dict(kind.languages))
    return bool(counts) and counts.most_common(1)[0][1] < 0.9 * counts.total()


def _share(trial: Trial | None, examples: Sequence[TriedExamples]) -> float:
    """Return the smallest share that holds out enough of documents and examples, or the largest that does at all."""
    possible = [share for share in SHARES if all(each.are_enough(share) for each in examples)]
    if trial is None:
        return possible[0] if possible else 0
    enough = [share for share in possible if trial.holds_out(share, HELD_OUT_DOCUMENTS, HELD_OUT_BYTES)]
    some = [share for share in possible if trial.holds_out(share, 1, 1)]
    return enough[0] if enough else some[-1] if some else 0.0


def _usual_share(survey: Survey) -> float:
    """Return a share that holds out a few thousand documents of many."""
    n = sum(kind.records for kind in survey.kinds)
    return next(share for limit, share in ((4e4, 0.05), (2e5, 0.01), (2e6, 0.002), (math.inf, 0.0005)) if n <= limit)


def _expected(survey: Survey, share: float) -> tuple[float, float, float]:
    size = survey.text_bytes
    return size * (1 - 2 * share), size * share, size * share


def _texts(survey: Survey) -> list[str]:
    """Return texts of all kinds, of each in proportion to its size."""
    return [
        text[: max(int(SAMPLE * kind.text_bytes / survey.text_bytes / len(kind.texts)), 100)]
        for kind in survey.kinds
        for text in kind.texts
    ]


def _vocabulary(texts: Sequence[str], n_bytes: float) -> tuple[int | None, float]:
    """Return the size of a vocabulary that the text is enough for, and the bytes of a token.

    The size is None if characters have to do.
    """
    wanted = next(size for least, size in VOCABULARIES.items() if n_bytes >= least)
    some, left = [], SAMPLE
    for text in texts:
        some.append(text[:left])
        left -= len(some[-1])
    total = sum(len(text.encode()) for text in some)
    for size in sorted({wanted, *(size for size in VOCABULARIES.values() if size < wanted)}, reverse=True):
        try:
            tokenizer = train_byte_pairs(some, size)
        except InputError:
            continue
        return size, total / max(sum(len(tokenizer.encode(text)) for text in some), 1)
    return None, total / max(sum(map(len, some)), 1)


def _wanted(tasks: Sequence[Task], size_of_token: float) -> int:
    """Return the context that four fifths of the examples need, in tokens."""
    lengths = sorted(length for task in tasks for length in task.kind.lengths)
    return int(lengths[len(lengths) * 4 // 5] / size_of_token) + 24 if lengths else 0


def _context(size: Size, held_out: int, wanted: int) -> int:
    """Return the tokens of a window: the size's own, or more for examples, or fewer so that some can be held out."""
    context = size.context
    while context < min(wanted, MOST_CONTEXT) and held_out > 2 * context:
        context *= 2
    while context > SHORTEST and held_out < HELD_OUT_WINDOWS * (context + 1) and context > min(wanted, size.context):
        context //= 2
    return context


def _finetuning(
    task: Task, examples: float, size_of_token: float, context: int, per_token: float, budget: float
) -> Finetuning:
    """Return the training of a model, which stays within some seconds."""
    n = max(int(examples), 1)
    is_classifier = task.kind.columns is not None and task.kind.columns.kind == "labels"
    batch = 32 if is_classifier else 16
    length = min(mean(task.kind.lengths) / size_of_token * 1.3, context)
    seconds = max(length, 8) * batch * per_token * (2 if is_classifier else 1)  # also from random weights
    steps = _rounded(max(min(FINETUNING_EPOCHS * n / batch, budget / seconds), FEWEST_STEPS))
    return Finetuning(task, n, steps, batch, steps * seconds)


def _rounded(number: float) -> int:
    """Return a number with two digits."""
    return int(float(f"{number:.2g}"))


def _amount(survey: Survey, trial: Trial | None) -> str:
    n, n_bytes = (len(trial.sizes), sum(trial.sizes)) if trial else (0, survey.text_bytes)
    return f"{n:,} documents with {size_in_units(n_bytes)}; some pages of text are needed"
