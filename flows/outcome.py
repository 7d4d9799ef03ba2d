"""What a step made, as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyarrow.parquet import read_table

from pipelines.numbers import short
from pipelines.store.dataset import Dataset


@dataclass(frozen=True)
class Outcome:
    """A step that was carried out: its result, how long it took, and whether it was there already.

    said: what came of it, where that is more than the result's own numbers.
    """

    step: str
    dataset: Dataset
    seconds: float
    reused: bool
    said: str = ""

    @property
    def took(self) -> str:
        if self.reused:
            return "" if self.said else "reused"
        return f"{self.seconds:,.1f} s"


def headline(dataset: Dataset) -> str:
    """What a dataset is, in one line of the numbers that a person wants first."""
    statistics = dataset.manifest.statistics
    step = dataset.manifest.step
    return HEADLINES[step](statistics) if step in HEADLINES else counts(statistics)


def details(dataset: Dataset) -> str:
    """The same in full: of an evaluation, the model beside its baselines."""
    comparison = COMPARISONS.get(dataset.manifest.step)
    return comparison(dataset) if comparison else headline(dataset)


def _language(s: Mapping[str, Any]) -> str:
    return f"{s['test/bits_per_byte']:.3f} bits per byte, perplexity {s['test/perplexity']:,.1f}"


def _compare_languages(dataset: Dataset) -> str:
    s = dataset.manifest.statistics
    systems = {
        "this model": "test/",
        "interpolated trigram": "test-baseline/trigram/",
        "unigram": "test-baseline/unigram/",
    }
    columns = {"bits/byte": ("bits_per_byte", "{:.3f}"), "perplexity": ("perplexity", "{:,.1f}")}
    return _beside(s, systems, columns, f"{s['scored_tokens']:,} held-out tokens")


def _classifier(s: Mapping[str, Any]) -> str:
    return f"accuracy {s['classify/accuracy']:.3f}, F1 on {s['positive']} {s['classify/f1']:.3f}"


def _compare_classifiers(dataset: Dataset) -> str:
    s, rows = dataset.manifest.statistics, read_table(dataset.file("metrics.parquet")).to_pylist()
    value = {(row["system"], row["metric"]): row for row in rows}
    names = {"model": "this model", "TF-IDF logistic regression": "TF-IDF regression"}
    table = [[f"{s['scored_examples']:,} held-out texts", "accuracy", f"F1 {s['positive']}", "95%"]]
    for system in dict.fromkeys(row["system"] for row in rows):
        f1 = value[system, "f1"]
        cells = (f"{value[system, 'accuracy']['value']:.3f}", f"{f1['value']:.3f}", f"{f1['low']:.2f}-{f1['high']:.2f}")
        table.append([names.get(system, system), *cells])
    return aligned(table)


def _task(s: Mapping[str, Any]) -> str:
    return f"accuracy {s['task/accuracy']:.3f}, per character {s['task/accuracy_normalised']:.3f}"


def _compare_tasks(dataset: Dataset) -> str:
    s = dataset.manifest.statistics
    systems = {
        "this model": "task/",
        "without the prompt": "task-baseline/choices_alone/",
        "chance": "task-baseline/chance/",
    }
    columns = {"accuracy": ("accuracy", "{:.3f}"), "per character": ("accuracy_normalised", "{:.3f}")}
    return _beside(s, systems, columns, f"{s['scored_items']:,} items, {s['shots']} shots")


def _assistant(s: Mapping[str, Any]) -> str:
    return f"response loss {s['instruct/loss']:.3f}, chrF {s['instruct/chrf']:.1f}"


def _compare_assistants(dataset: Dataset) -> str:
    s = dataset.manifest.statistics
    systems = {
        "this model": "instruct/",
        "before fine-tuning": "instruct-baseline/base_model/",
        "nearest training answer": "instruct-baseline/nearest_instruction/",
    }
    columns = {"loss": ("loss", "{:.3f}"), "chrF": ("chrf", "{:.1f}"), "exact": ("exact_match", "{:.1%}")}
    return _beside(s, systems, columns, f"{s['scored_examples']:,} held-out instructions")


def _beside(s: Mapping[str, Any], systems: Mapping[str, str], columns: Mapping[str, tuple[str, str]], what: str) -> str:
    """Systems down and metrics across, as aligned text; a metric that a system does not have is a dash."""
    rows = [[what, *columns]]
    for system, prefix in systems.items():
        values = [(s.get(prefix + key), form) for key, form in columns.values()]
        if any(value is not None for value, _ in values):
            rows.append([system, *("-" if value is None else form.format(value) for value, form in values)])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def _model(s: Mapping[str, Any]) -> str:
    epochs = f" ({s['epochs']:.1f} epochs)" if "epochs" in s else ""
    return (
        f"{short(s['parameters'])} parameters, {s['steps']:,} steps{epochs}, {short(s['tokens_trained'])} tokens, "
        f"best validation loss {s.get('best_val_loss', float('nan')):.3f}"
    )


def _splits(s: Mapping[str, Any], what: str) -> str:
    shares = ((split, s.get(f"{what}_{split}")) for split in ("train", "validation", "test"))
    return ", ".join(f"{number:,} {split}" for split, number in shares if number)


def _corpus(s: Mapping[str, Any]) -> str:
    return f"{s['documents']:,} documents, {short(s['bytes'])} bytes, {s['rejected']:,} rejected"


def _mix(s: Mapping[str, Any]) -> str:
    names = [key.removeprefix("epochs_of_") for key in s if key.startswith("epochs_of_")]
    drawn = ", ".join(f"{name} {s[f'share_of_{name}']:.0%} ({s[f'epochs_of_{name}']:.3g} epochs)" for name in names)
    return f"{s['documents']:,} documents, {short(s['bytes'])} bytes; for training {drawn}"


def _tokens(s: Mapping[str, Any]) -> str:
    return f"{short(s['tokens'])} tokens of {s['bytes_per_token']:.2f} bytes, vocabulary {s['vocabulary']:,}"


def _samples(s: Mapping[str, Any]) -> str:
    return f"{s['samples']:,} samples: {_splits(s, 'samples')}"


def _examples(s: Mapping[str, Any]) -> str:
    return f"{s['examples']:,} examples: {_splits(s, 'examples')}; {s['rejected']:,} rejected"


def _report(s: Mapping[str, Any]) -> str:
    return f"{s['figures']} figures on one page"


def _lessons(s: Mapping[str, Any]) -> str:
    learnt = f", {short(s['tokens_learnt'])} of them learnt" if s["tokens_learnt"] else ""
    return f"{s['lessons']:,} lessons: {_splits(s, 'lessons')}; {short(s['tokens'])} tokens{learnt}"


HEADLINES = {
    "ingest": _corpus,
    "mix": _mix,
    "tokenize": _tokens,
    "sample": _samples,
    "examples": _examples,
    "lessons": _lessons,
    "pretrain": _model,
    "finetune-classifier": _model,
    "finetune-assistant": _model,
    "evaluate-language": _language,
    "evaluate-task": _task,
    "evaluate-classifier": _classifier,
    "evaluate-assistant": _assistant,
    "report": _report,
}


COMPARISONS = {
    "evaluate-language": _compare_languages,
    "evaluate-task": _compare_tasks,
    "evaluate-classifier": _compare_classifiers,
    "evaluate-assistant": _compare_assistants,
}


def counts(statistics: Mapping[str, Any], most: int = 6) -> str:
    """Statistics as a phrase: those without a `/` in their names, the first few."""
    plain = [(k, v) for k, v in statistics.items() if isinstance(v, int | float) and "/" not in k][:most]
    return ", ".join(f"{short(value)} {key.replace('_', ' ')}" for key, value in plain)
