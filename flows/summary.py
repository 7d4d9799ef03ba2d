"""What a run says of its results: a phrase per step, Prefect artifacts, and the closing table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipelines.store import Dataset

if TYPE_CHECKING:
    from pipelines.config import RunConfig


@dataclass(frozen=True)
class Outcome:
    """A step that was carried out: its result, how long it took, and whether it was there already."""

    step: str
    dataset: Dataset
    seconds: float
    reused: bool


def headline(dataset: Dataset) -> str:
    """What a dataset is, in numbers that a person wants first."""
    statistics = dataset.manifest.statistics
    step = dataset.manifest.step
    return HEADLINES[step](statistics) if step in HEADLINES else counts(statistics)


def _language(s: Mapping[str, Any]) -> str:
    rows = [
        ("this model", s["test/bits_per_byte"], s["test/perplexity"]),
        *(
            (system, s[f"baseline/test/{system}/bits_per_byte"], s[f"baseline/test/{system}/perplexity"])
            for system in ("trigram", "unigram")
            if f"baseline/test/{system}/bits_per_byte" in s
        ),
    ]
    return "\n".join(f"{name}: {bits:.3f} bits per byte, perplexity {perplexity:,.1f}" for name, bits, perplexity in rows)


def _classifier(s: Mapping[str, Any]) -> str:
    def row(name: str, prefix: str) -> str:
        return f"{name}: accuracy {s[prefix + 'accuracy']:.3f}, F1 on {s['positive']} {s[prefix + 'f1']:.3f}"

    baselines = {"TF-IDF logistic regression": "tf_idf_logistic_regression", "majority class": "majority_class"}
    lines = [row("this model", "classify/"), *(row(n, f"baseline/classify/{key}/") for n, key in baselines.items())]
    return "\n".join([*lines, f"on {s['scored_examples']:,} held-out texts"])


def _assistant(s: Mapping[str, Any]) -> str:
    def row(name: str, prefix: str) -> str:
        loss = f"response loss {s[prefix + 'loss']:.3f}, " if f"{prefix}loss" in s else ""
        return f"{name}: {loss}chrF {s[prefix + 'chrf']:.1f}, exact {s[prefix + 'exact_match']:.1%}"

    names = {"before fine-tuning": "base_model", "nearest training answer": "nearest_instruction"}
    keys = {name: f"baseline/instruct/{key}/" for name, key in names.items()}
    lines = [row("this model", "instruct/"), *(row(n, key) for n, key in keys.items() if f"{key}chrf" in s)]
    return "\n".join([*lines, f"on {s['scored_examples']:,} held-out instructions"])


def _model(s: Mapping[str, Any]) -> str:
    epochs = f" ({s['epochs']:.1f} epochs)" if "epochs" in s else ""
    return (
        f"{short(s['parameters'])} parameters, {s['steps']:,} steps{epochs}, {short(s['tokens_trained'])} tokens, "
        f"best validation loss {s.get('best_val_loss', float('nan')):.3f}"
    )


HEADLINES = {
    "pretrain": _model,
    "finetune-classifier": _model,
    "finetune-assistant": _model,
    "evaluate-language": _language,
    "evaluate-classifier": _classifier,
    "evaluate-assistant": _assistant,
}


def counts(statistics: Mapping[str, Any], most: int = 6) -> str:
    """Statistics as a phrase: those without a `/` in their names, the first few."""
    plain = [(k, v) for k, v in statistics.items() if isinstance(v, int | float) and "/" not in k][:most]
    return ", ".join(f"{short(value)} {key.replace('_', ' ')}" for key, value in plain)


def short(number: float) -> str:
    """A number in three digits or so: 12.3k, 4.56M."""
    for limit, divisor, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(number) >= limit:
            return f"{number / divisor:,.3g}{suffix}"
    return f"{number:,.0f}" if abs(number) >= 100 or number == int(number) else f"{number:.3g}"


def publish_artifacts(outcome: Outcome) -> None:
    """A step's Prefect artifacts: a Markdown summary and a table of its statistics."""
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    manifest = outcome.dataset.manifest
    key = _artifact_key(f"{manifest.step}-{manifest.name}")
    lines = headline(outcome.dataset).replace("\n", "\n- ")
    inputs = "".join(f"\n- {role}: `{ref}`" for role, ref in manifest.inputs.items())
    markdown = (
        f"## {manifest.step} {manifest.name}\n\n- {lines}\n\n"
        f"`{outcome.dataset}` in `{outcome.dataset.path}`, {len(manifest.files)} files, {manifest.bytes:,} bytes, "
        f"built in {outcome.seconds:.1f} s\n\n{'Made from' + inputs if inputs else ''}"
    )
    create_markdown_artifact(markdown, key=key, description=f"What {manifest.step} made")
    table = [{"statistic": k, "value": v} for k, v in manifest.statistics.items()]
    create_table_artifact(table, key=f"{key}-statistics", description=f"Statistics of {outcome.dataset}")


def publish_chain(name: str, outcomes: Sequence[Outcome]) -> None:
    """The closing table as a Prefect artifact of the flow run."""
    from prefect.artifacts import create_table_artifact

    rows = [
        {
            "step": o.step,
            "result": str(o.dataset),
            "what came of it": headline(o.dataset),
            "seconds": "reused" if o.reused else round(o.seconds, 1),
        }
        for o in outcomes
    ]
    create_table_artifact(rows, key=_artifact_key(f"run-{name}"), description=f"What {name} made")


def closing(config: RunConfig, outcomes: Sequence[Outcome], home: Path, seconds: float) -> Group:
    """The closing table, and what to type next."""
    table = Table(title=f"{config.name}: {len(outcomes)} steps in {seconds:,.1f} s", title_justify="left", title_style="bold")
    table.add_column("step", no_wrap=True)
    table.add_column("what came of it, and where it lies")
    table.add_column("seconds", justify="right", no_wrap=True)
    for outcome in outcomes:
        path = outcome.dataset.path
        where = path.relative_to(home) if path.is_relative_to(home) else path
        time = Text("reused", style="dim") if outcome.reused else Text(f"{outcome.seconds:,.1f}")
        table.add_row(outcome.step, Group(Text(headline(outcome.dataset)), Text(str(where), style="dim")), time)
        table.add_section()
    return Group(table, *next_commands(config, outcomes))


def next_commands(config: RunConfig, outcomes: Sequence[Outcome]) -> list[Text]:
    """What a person may want to type now."""
    models = {o.dataset.manifest.statistics.get("task"): o.dataset.ref.name for o in reversed(outcomes) if o.dataset.ref.kind == "model"}
    lines = ["Next:"]
    if name := models.get("language"):
        lines.append(f'  tokenmill generate "In the beginning" --model {name}')
    if name := models.get("classification"):
        lines.append(f'  tokenmill classify "You have won a prize, call now" --model {name}')
    if name := models.get("instruction"):
        lines.append(f"  tokenmill chat --model {name}")
    lines.append('  tokenmill sql "select token, n from vocabulary order by n desc limit 10"')
    lines.append("  tokenmill up        # Prefect's and MLflow's pages on what happened")
    return [Text(line) for line in lines]


def _artifact_key(text: str) -> str:
    """Prefect's keys hold lower-case letters, digits and dashes only."""
    return "".join(c if c.isalnum() else "-" for c in text.lower())
