"""Evaluate a language model on a task of multiple choice, with or without examples before the question.

A task is a file of records with `prompt`, `choices` and `answer`: the answer's number, counted from 0, or its text.
The model chooses the text that is likeliest after the prompt and a space. Longer texts are less likely, so it also
chooses by the likelihood per character. Examples precede the prompt in the same form, with empty lines between them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from pipelines.corpus.cells import is_missing
from pipelines.corpus.documents import document_id
from pipelines.corpus.places import label_of
from pipelines.corpus.readers.look import read_file
from pipelines.corpus.readers.records import Bad, ReadOptions
from pipelines.corpus.sources import Uri, describe, list_files
from pipelines.errors import InputError
from pipelines.evaluation.metrics import measures
from pipelines.evaluation.results import MODEL, beside, key_of, statistics, write_evaluation
from pipelines.evaluation.significance import Interval, intervals
from pipelines.evaluation.tasks import CHOICE_METRICS
from pipelines.models.language_model import open_gpt
from pipelines.models.scoring import log_likelihoods
from pipelines.numbers import counted
from pipelines.store.dataset import Dataset
from pipelines.store.manifest import SourceFile
from pipelines.store.step import StepContext, StepType


class MultipleChoiceConfig(ReadOptions):
    """A task of multiple choice, and how the model is asked."""

    uri: Uri = Field(json_schema_extra={"fingerprint": False})
    """Its file: JSON Lines with prompt, choices and answer."""
    shots: int = Field(0, ge=0)
    """Solved items before each question, drawn from the others."""
    seed: int = Field(0, ge=0)
    """Seed of the draw."""


@dataclass(frozen=True)
class Item:
    """A question. `answer` is the number of the right choice."""

    id: str
    prompt: str
    choices: tuple[str, ...]
    answer: int

    @property
    def solved(self) -> str:
        """The question with its answer, as an example."""
        return f"{self.prompt} {self.choices[self.answer]}"


def run_task(
    inputs: Mapping[str, Dataset], config: MultipleChoiceConfig, out: Path, work: StepContext
) -> dict[str, Any]:
    """Score choices by likelihood and by likelihood per character, beside the choices without prompts and chance."""
    model, items = open_gpt(inputs["model"].path), read_items(config)
    if config.shots >= len(items):
        raise InputError(f"{config.uri} has {len(items)} items, too few to draw {config.shots} others as examples.")
    by_id = sorted(items, key=lambda item: item.id)
    prompts = {MODEL: [question(item, by_id, config) for item in items], "choices alone": [""] * len(items)}
    metrics: dict[str, dict[str, float | Interval]] = {}
    predictions: dict[str, Any] = {
        "item": [item.id for item in items],
        "prompt": [item.prompt for item in items],
        "choices": [list(item.choices) for item in items],
        "answer": [item.choices[item.answer] for item in items],
    }
    answers = np.array([item.answer for item in items])
    lengths = [np.array([len(choice) for choice in item.choices]) for item in items]
    for system, texts in prompts.items():
        scores = score(model, items, texts, work)
        likeliest = np.array([each.argmax() for each in scores])
        per_character = np.array([(each / n).argmax() for each, n in zip(scores, lengths, strict=True)])
        right, key = {"right": likeliest == answers, "right_normalised": per_character == answers}, key_of(system)
        metrics[system] = {**intervals(measures(CHOICE_METRICS, right))}
        predictions |= {
            f"{key}_choice": [item.choices[i] for item, i in zip(items, per_character, strict=True)],
            f"{key}_log_likelihoods": [each.tolist() for each in scores],
            **{f"{key}_{name}": values for name, values in right.items()},
        }
    metrics["chance"] = dict.fromkeys(metrics[MODEL], float(np.mean([1 / len(item.choices) for item in items])))
    write_evaluation(out, metrics, pa.table(predictions))
    return {"task": "choice", "shots": config.shots, "scored_items": len(items), **statistics("task", metrics)}


def score(model: Any, items: Sequence[Item], prompts: Sequence[str], work: StepContext) -> list[NDArray[np.float64]]:
    """Return the log-likelihood of each item's choices after its prompt, in nats."""
    found: list[NDArray[np.float64]] = []
    for at in range(0, len(items), 64):
        some = list(zip(items[at : at + 64], prompts[at : at + 64], strict=True))
        pairs = [(prompt, f" {choice}") for item, prompt in some for choice in item.choices]
        values = iter(value for value, _ in log_likelihoods(model, pairs))
        found += [np.array([next(values) for _ in item.choices]) for item, _ in some]
        work.listener.progress(len(found), len(items), "items")
    return found


def question(item: Item, items: Sequence[Item], config: MultipleChoiceConfig) -> str:
    """Return the text before a choice. The seed and the item alone decide which examples are drawn."""
    if not config.shots:
        return item.prompt
    others = sorted((each for each in items if each.id != item.id), key=lambda each: each.id)
    rng = np.random.default_rng([config.seed, int(item.id[:15], 16)])
    drawn = rng.permutation(len(others))[: config.shots]
    return "\n\n".join([*(others[i].solved for i in drawn), item.prompt])


def read_items(config: MultipleChoiceConfig) -> list[Item]:
    """Read the items of the task's files.

    Raises:
        InputError: a record is no question. It is not skipped, since results could then not be compared with others.
    """
    items: dict[str, Item] = {}
    for file in list_files(config.uri)[0]:
        with file.open() as stream:
            for record in read_file(stream, file.name, config):
                place = f"{file.name} {record.location}"
                if isinstance(record, Bad):
                    raise InputError(f"{place}: {record.reason}.")
                try:
                    item = _item(record.fields)
                except ValueError as error:
                    raise InputError(f"{place}: {error}.") from None
                if item.id in items:
                    raise InputError(f"{place}: the same question stands in the file before.")
                items[item.id] = item
        file.check_unchanged()
    if not items:
        raise InputError(f"{config.uri} holds no items.")
    return list(items.values())


def _item(fields: Mapping[str, Any]) -> Item:
    missing = [name for name in ("prompt", "choices", "answer") if is_missing(fields.get(name))]
    if missing:
        raise ValueError(f"an item has prompt, choices and answer; {' and '.join(missing)} is missing")
    prompt, choices, answer = str(fields["prompt"]), fields["choices"], fields["answer"]
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
        raise ValueError("choices is not a list of two or more texts")
    if len(set(choices)) < len(choices):
        raise ValueError("two choices are the same")
    if isinstance(answer, str) and answer in choices:
        answer = choices.index(answer)
    if isinstance(answer, float) and answer.is_integer():  # as pandas writes it
        answer = int(answer)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise ValueError(f"answer is {answer!r}, which is none of the {len(choices)} choices, nor a number from 0")
    return Item(document_id("\0".join([prompt, *choices])), prompt, tuple(choices), answer)


def sources(config: MultipleChoiceConfig) -> tuple[SourceFile, ...]:
    """Return name, size and digest of the task's files."""
    return describe(list_files(config.uri)[0], label_of(config.uri))


def _headline(s: Mapping[str, Any]) -> str:
    return f"accuracy {s['task/accuracy']:.3f}, per character {s['task/accuracy_normalised']:.3f}"


def _details(dataset: Dataset) -> str:
    s = dataset.manifest.statistics
    baselines = {"choices_alone": "without the prompt", "chance": "chance"}
    columns = {"accuracy": ("accuracy", "{:.3f}"), "per character": ("accuracy_normalised", "{:.3f}")}
    return beside(s, "task", baselines, columns, f"{counted(s['scored_items'], 'item')}, {counted(s['shots'], 'shot')}")


EVALUATE_TASK = StepType(
    "evaluate-task",
    kind="evaluation",
    version=1,
    config=MultipleChoiceConfig,
    run=run_task,
    sources=sources,
    packages=("gpt", "pipelines.evaluation", "pipelines.models"),
    headline=_headline,
    details=_details,
)
