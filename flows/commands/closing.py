"""The end of a run: the closing table, what tells the run from others, and the commands to try next."""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from flows.outcome import Outcome, details
from pipelines.changes import Change, change_lines
from pipelines.config import RunConfig
from pipelines.corpus.documents import Corpus
from pipelines.corpus.examples import Examples
from pipelines.evaluation.tasks import TRIAL
from pipelines.numbers import counted
from pipelines.store.dataset import Dataset
from pipelines.visible import one_line

CHANGES = 12  # keys that differ from the run before, and are shown


def closing(name: str, outcomes: Sequence[Outcome], home: Path, seconds: float, ended: str = "") -> Table:
    """Return the closing table of a run: each step with its result, the result's folder and the time.

    Args:
        name: the run's.
        outcomes: what was carried out, in order.
        home: the home folder.
        seconds: the time that it took in all.
        ended: what happened to the run then, if it did not end well: failed, or was stopped.
    """
    outcomes = [each for each in outcomes if each.step != TRIAL]  # the decision sums it up
    steps = Counter(outcome.step for outcome in outcomes if not outcome.summary)
    end = f", then it {ended}" if ended else ""
    title = f"{one_line(name)}: {counted(steps.total(), 'step')} in {seconds:,.1f} s{end}"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, collapse_padding=True)
    table.pad_edge, table.show_edge, table.leading = False, False, 1
    table.min_width = Text(title).cell_len  # a narrow table would break the name of the run
    table.add_column("step", no_wrap=True)
    table.add_column("what it made, and where")
    table.add_column("took", justify="right", no_wrap=True)
    for outcome in outcomes:
        if outcome.summary:
            table.add_row(outcome.step, Text(one_line(outcome.summary)), outcome.took)
            continue
        path = outcome.dataset.file("report.html") if outcome.step == "report" else outcome.dataset.folder
        where = path.relative_to(home) if path.is_relative_to(home) else path
        which = f"{outcome.dataset.ref.name}: " if steps[outcome.step] > 1 else ""
        result = Group(
            Text(f"{which}{details(outcome.dataset)}"), Text(one_line(str(where)), style="dim", overflow="fold")
        )
        table.add_row(outcome.step, result, Text(outcome.took, style="dim" if outcome.reused else ""))
    return table


def differences(overrides: Sequence[str], before: str, changed: Mapping[str, Change]) -> list[str]:
    """Return lines about what tells a run from others.

    Args:
        overrides: what `--set` changed.
        before: the name of the run before; empty if this is the first one.
        changed: what differs from it.
    """
    lines = [f"Set: {one_line(', '.join(overrides))}"] if overrides else []
    if before and changed:
        shown = change_lines(dict(islice(changed.items(), CHANGES)))
        more = [f"  and {len(changed) - CHANGES} more"] if len(changed) > CHANGES else []
        lines += [f"Differs from the run before, {one_line(before)}:", *(f"  {line}" for line in shown), *more]
    elif before:
        lines.append(f"The same config as the run before, {one_line(before)}.")
    return lines


LONGEST, LOOKED_AT = 50, 50  # letters of a text in a command; documents or examples among which one is looked for
SAFE = re.compile(r"[^\"\\$`!]+")  # what a shell leaves as it is between double quotes


def next_commands(run: RunConfig, outcomes: Sequence[Outcome]) -> str:
    """Return the lines that show what a person may want to type next, with texts that fit what was made."""
    made = [outcome.dataset for outcome in outcomes]
    models: dict[str, Dataset] = {}
    for dataset in (dataset for dataset in made if dataset.ref.kind == "model"):
        models.setdefault(str(dataset.manifest.statistics.get("task")), dataset)
    commands = []
    if model := models.get("language"):
        prompts = chain(run.pretrain.prompts, run.evaluate.prompts, _held_out_texts(made))  # read as far as needed
        commands.append(f"tokenmill generate {_argument(prompts, words=4)}--model {model.ref.name}")
    if model := models.get("classification"):
        examples = next(each for each in made if each.ref == model.manifest.inputs["examples"])
        texts = (row.text for split in ("test", "validation", "train") for row in Examples(examples).rows(split))
        commands.append(f"tokenmill classify {_argument(texts)}--model {model.ref.name}")
    if model := models.get("instruction"):
        commands.append(f"tokenmill chat --model {model.ref.name}")
    commands += [
        'tokenmill sql "select source, count(*) from documents group by source"',
        f"tokenmill report {run.name} --open",
        "tokenmill up        # Prefect's and MLflow's pages on what happened",
    ]
    return "\n  ".join(["Next:", *commands])


def _held_out_texts(made: Sequence[Dataset]) -> Iterator[str]:
    """Yield texts of a run's corpus, those that are held out first."""
    for corpus in (dataset for dataset in reversed(made) if dataset.ref.kind == "corpus"):
        for wanted in ("test", "validation", "train"):
            for batch in Corpus(corpus).batches(["split", "text"]):
                yield from (text["text"] for text in batch.to_pylist() if text["split"] == wanted)


def _argument(texts: Iterable[str], words: int | None = None) -> str:
    """Return the first words of a text as an argument, with a space behind; empty if none of the texts has any.

    A text that needs no quotes within is preferred, because it is easier to read.
    """
    quoted = ""
    for text in islice(texts, LOOKED_AT):
        start = _start(text.split()[:words])
        if not start or not start.isprintable() or start.startswith("-"):
            continue
        if SAFE.fullmatch(start):
            return f'"{start}" '
        quoted = quoted or f"{shlex.quote(start)} "
    return quoted


def _start(words: Sequence[str]) -> str:
    """Return as many words as are short enough for a command."""
    start = ""
    for word in words:
        if len(start) + len(word) >= LONGEST:
            break
        start = f"{start} {word}" if start else word
    return start
