"""The plan of a run: sizes and steps that suit the amount of text and the time that this machine takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from pipelines.errors import InputError
from pipelines.starter.amount import Amount, amount_of, without_unusable
from pipelines.starter.sources import Source, Task, tasks_of, text_sources
from pipelines.starter.speed import Machine, Size
from pipelines.starter.survey import Survey
from pipelines.tokens.byte_pairs import train_byte_pairs

VOCABULARIES = {3e8: 16384, 2e7: 8192, 1e6: 4096, 2e5: 2048, 3e4: 1024, 5e3: 512, 0: 320}
"""Token ids of a vocabulary by the bytes of text from which it is worth learning."""
TINY, SMALL = Size(0, 2, 2, 64, 64, 4), Size(3e4, 3, 4, 128, 128, 8)
CPU = (TINY, SMALL, Size(3e5, 4, 4, 256, 128, 16))
GPU = (TINY, SMALL, Size(3e5, 4, 4, 256, 256, 32), Size(1e7, 8, 6, 384, 512, 32), Size(2e8, 12, 12, 768, 1024, 16))
"""Models by the tokens from which they are worth training, each with its windows in a step."""
SHORTEST, LONGEST = 16, 512  # tokens of a window
HELD_OUT_WINDOWS = 4
AROUND = 150  # characters that a template writes around a short conversation
EPOCHS = 4  # readings of a text; later ones teach less than new text would (Muennighoff et al. 2023)
FINETUNING_EPOCHS = 3
FINETUNING = 0.4  # share of the time for the models that are fine-tuned, if there are any
FEWEST_STEPS = 30
READ_BYTES = 2e6  # bytes a second that ingest reads, cleans and compares with others
STARTING, EVALUATING = 25.0, 15.0  # seconds of a run, and of each evaluation


@dataclass(frozen=True)
class Finetuning:
    """The training of a fine-tuned model.

    examples: those of training.
    batch: examples in a step.
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
    vocabulary: None if the text is only enough for characters.
    step_seconds: the time of a step on this machine.
    seconds: the estimated time of a run.
    """

    survey: Survey
    machine: Machine
    sources: tuple[Source, ...]
    clean: tuple[str, ...]
    amount: Amount
    tokens: int
    bytes_per_token: float
    vocabulary: int | None
    size: Size
    context: int
    steps: int
    step_seconds: float
    finetunings: tuple[Finetuning, ...]
    seconds: float

    @property
    def epochs(self) -> float:
        """How often training reads the text."""
        return self.steps * self.size.batch * self.context / max(self.tokens, 1)

    @property
    def dropout(self) -> float:
        """The share of activations that is dropped: without it, a text that is read often is memorised."""
        return 0.1 if self.epochs > 2 else 0.0

    @property
    def has_languages(self) -> bool:
        """Whether a tenth or more of the texts is not in the language of the others."""
        counts: Counter[str] = Counter()
        for kind in self.survey.kinds:
            counts.update(dict(kind.languages))
        return bool(counts) and counts.most_common(1)[0][1] < 0.9 * counts.total()


def make_plan(survey: Survey, machine: Machine) -> Plan:
    """Return a plan for a text.

    Raises:
        InputError: the text is too little, or an ingest of it fails.
    """
    clean = _clean(survey)
    try:
        amount = amount_of(survey, clean)
    except InputError:
        survey = without_unusable(survey, clean)
        amount = amount_of(survey, clean)
    tasks = [task for task in tasks_of(survey) if task.name in amount.examples]
    vocabulary, size_of_token = _vocabulary(amount.texts, amount.train)
    tokens = int(amount.train / size_of_token)
    size = [each for each in (GPU if machine.has_gpu else CPU) if each.tokens <= tokens][-1]
    context = _context(size, tokens, int(amount.held_out / size_of_token), _wanted(tasks, size_of_token))
    if tokens <= 2 * context:
        raise InputError(f"{survey.uri} has too little text to train on: about {tokens:,} tokens.")
    step_seconds, per_step = (
        machine.seconds_per_step(size, vocabulary or VOCABULARIES[0], context),
        size.batch * context,
    )
    budget = machine.budget * (1 - FINETUNING if tasks else 1)
    steps = _rounded(max(min(EPOCHS * tokens / per_step, budget / step_seconds), FEWEST_STEPS))
    finetunings = []
    for task in tasks:
        length = min(1.3 * mean(task.kind.lengths) / size_of_token, context)
        left = machine.budget * FINETUNING / len(tasks)
        finetunings.append(_finetuning(task, amount.examples[task.name], length * step_seconds / per_step, left))
    fixed = STARTING + amount.bytes / READ_BYTES + EVALUATING * (1 + len(tasks))
    return Plan(
        survey=survey,
        machine=machine,
        sources=tuple(text_sources(survey)),
        clean=clean,
        amount=amount,
        tokens=tokens,
        bytes_per_token=size_of_token,
        vocabulary=vocabulary,
        size=size,
        context=context,
        steps=steps,
        step_seconds=step_seconds,
        finetunings=tuple(finetunings),
        seconds=fixed + steps * step_seconds + sum(each.seconds for each in finetunings),
    )


def _clean(survey: Survey) -> tuple[str, ...]:
    """Return the cleaners: none for source code, whose spaces and signs are meant."""
    code = sum(kind.text_bytes for kind in survey.kinds if kind.format == "code")
    return () if 2 * code > survey.text_bytes else ("unicode", "whitespace")


def _vocabulary(texts: Sequence[str], n_bytes: float) -> tuple[int | None, float]:
    """Return the size of a vocabulary that the text is enough for, and the bytes of a token.

    The size is None if characters have to do.
    """
    wanted = next(size for least, size in VOCABULARIES.items() if n_bytes >= least)
    total = sum(len(text.encode()) for text in texts)
    for size in (size for size in VOCABULARIES.values() if size <= wanted):
        try:
            tokenizer = train_byte_pairs(texts, size + size // 8)  # the text of the run may be enough for fewer
        except InputError:
            continue
        return size, total / max(sum(len(tokenizer.encode(text)) for text in texts), 1)
    return None, total / max(sum(map(len, texts)), 1)


def _wanted(tasks: Sequence[Task], size_of_token: float) -> int:
    """Return the context that nearly all conversations and most labelled texts need, in tokens.

    A conversation that is longer is left out, and a text is cut.
    """
    wanted = 0
    for task in tasks:
        lengths = sorted(task.kind.lengths)
        if task.kind.columns and task.kind.columns.kind == "labels":
            wanted = max(wanted, min(int(lengths[len(lengths) * 4 // 5] / size_of_token), LONGEST // 2))
        else:
            wanted = max(wanted, int((lengths[len(lengths) * 19 // 20] + AROUND) / size_of_token))
    return min(wanted, LONGEST)


def _context(size: Size, tokens: int, held_out: int, wanted: int) -> int:
    """Return the tokens of a window: the size's own, or more for examples, or fewer so that some can be held out."""
    context = size.context
    while context < wanted and tokens > 4 * context:
        context *= 2
    while context > SHORTEST and context // 2 >= wanted and held_out < HELD_OUT_WINDOWS * (context + 1):
        context //= 2
    return context


def _finetuning(task: Task, examples: int, seconds: float, budget: float) -> Finetuning:
    """Return the training of a model that stays within a budget of seconds, if an example takes some."""
    is_classifier = task.kind.columns is not None and task.kind.columns.kind == "labels"
    batch, models = (32, 2) if is_classifier else (16, 1)  # a classifier is also trained from random weights
    per_step = seconds * batch * models
    steps = _rounded(max(min(FINETUNING_EPOCHS * examples / batch, budget / per_step), FEWEST_STEPS))
    return Finetuning(task, examples, steps, batch, steps * per_step)


def _rounded(number: float) -> int:
    """Return a number with two digits."""
    return int(float(f"{number:.2g}"))
