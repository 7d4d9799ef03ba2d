"""The kinds of datasets: one entry each, which SQL views, exports, lineage, reports and MLflow read.

A new kind takes two files: the step's own, whose `StepType` names the kind, and an entry here:

    Kind(
        "index",
        colour=Colour("#3a6fd8", "blue"),
        rows="suffixes",
        counts=("suffixes",),
        views=(View("suffixes", "*.arrow", "shard INTEGER, position BIGINT", "Suffixes of every shard, in order."),),
    ),

With that, `suffixes` answers SQL, `tokenmill trace` and the graph show the dataset with its colour and count, the
report has a section about it, and MLflow's entity has its columns and number of rows. Only figures need a third file:
`pipelines/report/figures` draws them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pipelines.numbers import short
from pipelines.store.manifest import Manifest


@dataclass(frozen=True)
class View:
    """A SQL view over some files of every dataset of a kind.

    files: a pattern that matches the files; empty if the rows are made from the dataset's tokenizer.
    columns: names and DuckDB types, as in CREATE TABLE. A dataset may have more; a missing column is null.
    facts: columns that are the same for all rows of a dataset, computed from its manifest.
    derived: columns that SQL computes from those of the files.
    export: how `tokenmill datasets export` writes the view: not at all, as a table, or as a view over the files.
    task: show only datasets whose statistic `task` this is; by default, all.
    closed: show no other columns than these.
    """

    name: str
    files: str
    columns: str
    comment: str
    facts: Mapping[str, Callable[[Manifest], Any]] = field(default_factory=dict)
    derived: Mapping[str, str] = field(default_factory=dict)
    export: Literal["", "table", "view"] = ""
    task: str = ""
    closed: bool = False

    def shows(self, manifest: Manifest) -> bool:
        """Return whether the view has rows of a dataset of its kind."""
        return not self.task or manifest.statistics.get("task") == self.task

    @property
    def own_columns(self) -> dict[str, str]:
        """The type of each column that the files have."""
        made = {*self.facts, *self.derived}
        return {name: type for name, type in parse_columns(self.columns).items() if name not in made}

    @property
    def empty_query(self) -> str:
        """A query with all columns and no rows: the view's content before anything is published."""
        columns = {"dataset": "VARCHAR", **parse_columns(self.columns)}
        return "SELECT " + ", ".join(f'NULL::{type} AS "{name}"' for name, type in columns.items()) + " WHERE false"


@dataclass(frozen=True)
class Tile:
    """A statistic in large print at the top of a report. form: writes the number, by default in about three digits."""

    statistic: str
    label: str
    form: Callable[[float], str] = short


class Colour(NamedTuple):
    """A kind's colour: CSS for the lineage graph, and Rich's name for `tokenmill trace`."""

    css: str
    terminal: str


GREY = Colour("#7a7a7a", "white")


@dataclass(frozen=True)
class Kind:
    """Everything about a kind of dataset that is not its step.

    views: its SQL views.
    texts: the view whose rows are documents or examples; the first column is their id.
    rows, elements: the statistics that MLflow shows as its number of rows and of elements.
    schema_files: the files whose columns or tensors MLflow shows; by default, those of the first view.
    counts: the statistics that graph, trace and report show, the most important first; details: the report only.
    titles: the title of its section in a report, by the statistic `task`; `""` is for all other tasks.
    tiles: the statistics in large print; labelled_tiles: one tile for each dataset, with the dataset's name.
    """

    name: str
    colour: Colour = GREY
    views: tuple[View, ...] = ()
    texts: View | None = None
    rows: str = ""
    elements: str = ""
    schema_files: str = ""
    counts: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    titles: Mapping[str, str] = field(default_factory=dict)
    tiles: tuple[Tile, ...] = ()
    labelled_tiles: bool = False

    @property
    def columns_from(self) -> str:
        """The pattern of the files whose columns or tensors MLflow shows."""
        return self.schema_files or (self.views[0].files if self.views else "")


def parse_columns(columns: str) -> dict[str, str]:
    """Return the type of each column of a list such as `doc_id VARCHAR, n_tokens BIGINT`."""
    pairs = (column.split() for column in columns.split(","))
    return {name: type for name, type in pairs}  # noqa: C416 - the unpacking checks that there are two


def _input_name(role: str) -> Callable[[Manifest], str | None]:
    return lambda manifest: manifest.inputs[role].name if role in manifest.inputs else None


MODEL_NAME = {"model": _input_name("model")}


_NUMBERED = r"^(.+?) (?:after )?(?:file|(?:line|row|record|message) \d+(?: to \d+)?)(?: part \d+)?$"
FILE = {
    "file": f"coalesce(nullif(regexp_extract(location, '{_NUMBERED}', 1), ''), "
    "nullif(regexp_extract(location, '^(.+?) entry ', 1), ''), location)"
}
"""The file of a text: its location without the place in the file, which readers write behind the file's name."""


DOCUMENTS = View(
    "documents",
    "documents*",
    "doc_id VARCHAR, source VARCHAR, file VARCHAR, location VARCHAR, split VARCHAR, text VARCHAR, n_bytes BIGINT, "
    "metadata JSON, format VARCHAR, compression VARCHAR, encoding VARCHAR, quotes VARCHAR, doubtful VARCHAR",
    "The documents of every corpus, and how their files were read; `doubtful` names guesses that may be wrong.",
    derived=FILE,
    export="view",
)


REJECTED = View(
    "rejected",
    "rejected*",
    "doc_id VARCHAR, source VARCHAR, file VARCHAR, location VARCHAR, reason VARCHAR, kept VARCHAR, similarity DOUBLE, "
    "text VARCHAR, kind VARCHAR",
    "What was rejected from a corpus or from examples, and why. `kept` names the one that a duplicate repeats.",
    facts={"kind": lambda manifest: manifest.kind},
    derived=FILE,
    export="view",
)


EXAMPLES = View(
    "examples",
    "examples*",
    "example_id VARCHAR, source VARCHAR, location VARCHAR, split VARCHAR, text VARCHAR, label VARCHAR, "
    "instruction VARCHAR, input VARCHAR, response VARCHAR, history VARCHAR[], system VARCHAR",
    "Labelled texts and instructions with their responses, for fine-tuning.",
    export="view",
)


LESSONS = View(
    "lessons",
    "*.arrow",
    "example_id VARCHAR, split VARCHAR, label VARCHAR, tokens USMALLINT[], learnt BOOLEAN[]",
    "Fine-tuning examples as token ids; of a conversation, which of them are `learnt`.",
)


TOKENS = View(
    "tokens",
    "*.arrow",
    "doc_id VARCHAR, split VARCHAR, n_tokens BIGINT, tokens USMALLINT[], shard INTEGER, start BIGINT, corpus VARCHAR",
    "The token ids of every document of a `corpus`; `start` is where the document begins in its shard.",
    facts={"corpus": _input_name("corpus")},
)


VOCABULARY = View(
    "vocabulary",
    "",
    "token_id UINTEGER, text VARCHAR, bytes BLOB, n_bytes INTEGER, special BOOLEAN",
    "What each token id stands for.",
    export="table",
)


SAMPLES = View(
    "samples",
    "*.arrow",
    "sample_id BIGINT, split VARCHAR, shard INTEGER, start BIGINT, doc_id VARCHAR, starts BIGINT[], lengths INTEGER[], "
    "context INTEGER, tokens VARCHAR",
    "The windows that training sees: `context` tokens of a shard of the `tokens` dataset, from `start` on.",
    facts={"context": lambda manifest: manifest.config.get("context"), "tokens": _input_name("tokens")},
    export="table",
)


EVALUATIONS = View(
    "evaluations",
    "metrics.parquet",
    "model VARCHAR, split VARCHAR, system VARCHAR, metric VARCHAR, value DOUBLE, low DOUBLE, high DOUBLE",
    "Every model's metrics beside those of its baselines, with 95% intervals from `low` to `high`.",
    facts={**MODEL_NAME, "split": lambda manifest: manifest.config.get("split")},
    export="table",
)


PREDICTIONS = View(
    "predictions",
    "predictions.parquet",
    "model VARCHAR, item VARCHAR, truth VARCHAR, model_label VARCHAR, model_answer VARCHAR, model_loss DOUBLE",
    "What each model said to each held-out item, of all tasks. A view of one task also has the baselines.",
    facts=MODEL_NAME,
    export="table",
    closed=True,
)


def _predictions_of(task: str, columns: str, comment: str, **inputs: Callable[[Manifest], str | None]) -> View:
    facts = {**MODEL_NAME, **inputs}
    all_columns = f"model VARCHAR, item VARCHAR, {columns}"
    return View(f"{task}_predictions", "predictions.parquet", all_columns, comment, facts, export="table", task=task)


PREDICTIONS_BY_TASK = (
    _predictions_of(
        "language",
        "corpus VARCHAR, tokens BIGINT, bytes BIGINT, words BIGINT, model_loss DOUBLE",
        "The loss of each held-out document in a language model and in its baselines, summed over its tokens.",
        corpus=_input_name("corpus"),
    ),
    _predictions_of(
        "classification",
        "text VARCHAR, truth VARCHAR, model_label VARCHAR, model_probability DOUBLE",
        "The label of each held-out text by a classifier and by its baselines.",
    ),
    _predictions_of(
        "instruction",
        "instruction VARCHAR, response VARCHAR, model_answer VARCHAR, model_loss DOUBLE",
        "The answer to each held-out instruction of an assistant and of its baselines, with metrics.",
    ),
    _predictions_of(
        "choice",
        "prompt VARCHAR, choices VARCHAR[], answer VARCHAR, model_choice VARCHAR",
        "The choice of a model for each item of a task of multiple choice.",
    ),
)


TRIALS = View(
    "trials",
    "predictions.parquet",
    "model VARCHAR, item VARCHAR, truth VARCHAR, model_label VARCHAR, model_answer VARCHAR, model_loss DOUBLE",
    "What each model said to each validation item that chose nothing in its training. The promotion gate reads this.",
    facts=MODEL_NAME,
    closed=True,
)


RECITALS = View(
    "recitals",
    "memorisation.parquet",
    "model VARCHAR, split VARCHAR, doc_id VARCHAR, prefix VARCHAR, text VARCHAR, written VARCHAR, run BIGINT",
    "What a model wrote after the beginning of a text, and how many tokens of it are the text's.",
    facts=MODEL_NAME,
)


MISTAKES = View(
    "mistakes",
    "mistakes.parquet",
    "model VARCHAR, item VARCHAR, text VARCHAR, truth VARCHAR, predicted VARCHAR, probability DOUBLE",
    "Held-out texts of which a classifier was most confidently wrong.",
    facts=MODEL_NAME,
)


CURVES = View(
    "curves",
    "curves.parquet",
    "model VARCHAR, system VARCHAR, label VARCHAR, curve VARCHAR, x DOUBLE, y DOUBLE, threshold DOUBLE",
    "Points of the curves of classifiers: roc, precision_recall and calibration.",
    facts=MODEL_NAME,
)


_KINDS = (
    Kind(
        "corpus",
        colour=Colour("#b8860b", "yellow"),
        views=(DOCUMENTS, REJECTED),
        texts=DOCUMENTS,
        rows="documents",
        elements="bytes",
        counts=("documents",),
        details=("rejected",),
        tiles=(Tile("documents", "documents", "{:,.0f}".format),),
    ),
    Kind(
        "examples",
        colour=Colour("#b8860b", "yellow"),
        views=(EXAMPLES, REJECTED),
        texts=EXAMPLES,
        rows="examples",
        counts=("examples",),
        details=("rejected",),
    ),
    Kind(
        "lessons",
        colour=Colour("#1a8a9a", "cyan"),
        views=(LESSONS,),
        rows="lessons",
        elements="tokens",
        counts=("tokens",),
    ),
    Kind(
        "tokens",
        colour=Colour("#1a8a9a", "cyan"),
        views=(TOKENS, VOCABULARY),
        rows="documents",
        elements="tokens",
        counts=("tokens", "documents"),
        tiles=(Tile("tokens", "tokens"),),
    ),
    Kind("samples", colour=Colour("#3a6fd8", "blue"), views=(SAMPLES,), rows="samples", counts=("samples",)),
    Kind(
        "model",
        colour=Colour("#2e8b57", "green"),
        elements="parameters",
        schema_files="*.safetensors",
        counts=("parameters",),
        details=("steps",),
        titles={"language": "Pretraining", "": "Fine-tuning"},
        tiles=(Tile("parameters", "parameters"),),
    ),
    Kind(
        "evaluation",
        colour=Colour("#a8449c", "magenta"),
        views=(EVALUATIONS, PREDICTIONS, *PREDICTIONS_BY_TASK, RECITALS, MISTAKES, CURVES),
        schema_files="predictions.parquet",
        details=("scored_tokens", "scored_examples"),
        titles={
            "language": "Language model, evaluated",
            "classification": "Classifier, evaluated",
            "instruction": "Assistant, evaluated",
            "": "Task, evaluated",
        },
        tiles=(
            Tile("test/bits_per_byte", "bits per byte", "{:.3f}".format),
            Tile("classify/accuracy", "accuracy", "{:.3f}".format),
            Tile("classify/f1", "F1", "{:.3f}".format),
            Tile("instruct/chrf", "chrF", "{:.1f}".format),
        ),
        labelled_tiles=True,
    ),
    Kind("trial", colour=Colour("#7a4fb5", "magenta"), views=(TRIALS,), counts=("items",)),
    Kind("report"),
)


KINDS = {kind.name: kind for kind in _KINDS}


VIEWS = {view.name: view for kind in _KINDS for view in kind.views}


def kind_of(name: str) -> Kind:
    """Return a kind's entry, or a plain one for a kind that has none, such as a source file's."""
    return KINDS.get(name, Kind(name))
