"""New data: a published model is scored on data that no run has read. Nothing is trained or promoted.

All of the data is the test split. The baselines come from the model's own training: they learn from the same training
data, and the model from random weights and the model before its fine-tuning are scored too.
"""

from collections.abc import Callable
from dataclasses import replace

from gpt.config import Config
from pipelines.catalog.model_versions import on_new_data
from pipelines.chain import Evaluated, Perform, with_tokenizer_of
from pipelines.corpus.documents import SplitConfig, document_id
from pipelines.corpus.examples import EXAMPLES, Examples, ExamplesConfig
from pipelines.corpus.ingest.config import IngestConfig
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.errors import InputError
from pipelines.evaluation.assistant import EVALUATE_ASSISTANT, EvaluateAssistantConfig
from pipelines.evaluation.classifier import EVALUATE_CLASSIFIER, EvaluateClassifierConfig
from pipelines.evaluation.compare import evaluations_of
from pipelines.evaluation.language_model import EVALUATE_LANGUAGE, EvaluateLanguageConfig, doc_ids
from pipelines.report.report import ReportConfig
from pipelines.starter.columns import Columns, check_column
from pipelines.starter.sources import example_keys, slug, text_sources
from pipelines.starter.survey import Kind, Survey, name_of
from pipelines.store.dataset import Dataset
from pipelines.store.manifest import Name, Ref
from pipelines.store.store import Store
from pipelines.tokens.shards import Tokens
from pipelines.tokens.tokenize import TOKENIZE, TokenizeConfig

ALL_TEST = SplitConfig(validation=0, test=1)
TASK_OF = {"labels": "classification", "instructions": "instruction", "conversations": "instruction"}
"""The task of the models that examples of a kind are for. Other text is for language models."""
BESIDE = ("scratch", "base")
"""The roles of other models in an evaluation that are scored beside the model."""


class NewDataRun(Config):
    """A model and the data that it is scored on: text for a language model, else examples."""

    name: Name
    """The name of the data and of the evaluation."""
    experiment: str
    """The experiment of MLflow that the run belongs to."""
    model: str
    """The model, such as wiki@FINGERPRINT."""
    ingest: IngestConfig | None = None
    """Text for a language model."""
    examples: ExamplesConfig | None = None
    """Labelled texts for a classifier, or conversations for an assistant."""
    report: ReportConfig = ReportConfig()
    """The page about it all."""


def choose_columns(data: Survey, text: str | None, label: str | None) -> tuple[Kind, Columns]:
    """Return the largest kind of files of some data, and its columns: those that are named, else guessed ones.

    Raises:
        InputError: there is no such column.
    """
    kind = data.kinds[0]
    columns = kind.columns or Columns()
    for name in filter(None, (text, label)):
        if kind.fields:
            check_column(name, kind.fields, kind.files[0].name)
    if label:
        columns = Columns(text=text or columns.text, label=label)
    elif text:
        columns = replace(columns, text=text)
    return kind, columns


def plan(
    model: Dataset, experiment: str, data: Survey, text: str | None = None, label: str | None = None
) -> NewDataRun:
    """Return the run that scores a model on data.

    Args:
        model: the model.
        experiment: the experiment of MLflow that the run belongs to.
        data: a survey of the data.
        text: the column of the text; by default what looks like one.
        label: the column of the label; by default what looks like one.

    Raises:
        InputError: the data is not what the model needs.
    """
    name = f"{on_new_data(model.ref.name)}{slug(name_of(data.uri))[:18]}".rstrip("-.")
    values = {"name": name, "experiment": experiment, "model": f"{model.ref.name}@{model.ref.fingerprint}"}
    kind, columns = choose_columns(data, text, label)
    task = model.manifest.statistics["task"]
    if label and task != "classification":
        raise InputError(
            f"--label is for a classifier, and {model.ref.name} is none; leave it out, or name another --model."
        )
    if task == "language":
        sources = [source.keys | ({"text": text} if text else {}) for source in text_sources(data)]
        return NewDataRun.model_validate(values | {"ingest": {"sources": sources, "split": ALL_TEST}})
    if TASK_OF.get(columns.kind) != task:
        wanted = (
            "a column of labels: name it with --label" if task == "classification" else "conversations or responses"
        )
        raise InputError(f"{data.uri} shows nothing to score {model.ref.name} by; it needs {wanted}.")
    sources = example_keys(kind, columns)
    return NewDataRun.model_validate(values | {"examples": {"sources": sources, "split": ALL_TEST}})


def evaluate_new(perform: Perform, config: NewDataRun, store: Store, say: Callable[[str], None]) -> Evaluated:
    """Score a model on new data, and say how much of the data it was trained on."""
    model = store.open(config.model, kind="model")
    inputs = {"model": model, **_beside(model, store)}
    known = inputs.get("trained_on")
    if config.examples:
        examples = inputs["examples"] = perform(EXAMPLES.using(config.name, config.examples))
        if model.manifest.statistics["task"] == "classification":
            step = EVALUATE_CLASSIFIER.using(config.name, EvaluateClassifierConfig(), inputs)
        else:
            step = EVALUATE_ASSISTANT.using(config.name, EvaluateAssistantConfig(), inputs)
        new, seen = _texts(examples, "test"), _texts(known, "train")
    else:
        assert config.ingest
        corpus = inputs["corpus"] = perform(INGEST.using(config.name, config.ingest))
        tokenize = with_tokenizer_of(model, TokenizeConfig())
        tokens = inputs["tokens"] = perform(TOKENIZE.using(config.name, tokenize, {"corpus": corpus}))
        settings = EvaluateLanguageConfig(baselines=known is not None, memorisation=None)
        step = EVALUATE_LANGUAGE.using(config.name, settings, inputs)
        new, seen = _documents(tokens, "test"), _documents(known, "train")
    if both := len(new & seen):
        say(f"{both:,} of {len(new):,} texts are in the train split of {known}; they make the model look too good.")
    return Evaluated(step, perform(step))


def _beside(model: Dataset, store: Store) -> dict[str, Dataset]:
    """Return what a model is compared with, as far as the store has it: its training data and other models."""
    inputs = model.manifest.inputs
    found: dict[str, Ref | None] = {"trained_on": inputs.get("examples") or inputs.get("tokens")}
    for evaluation in evaluations_of(model.ref, store.list("evaluation"))[:1]:
        found |= {role: evaluation.manifest.inputs.get(role) for role in BESIDE}
    published = {each.ref: each for each in store.list()}
    return {role: published[ref] for role, ref in found.items() if ref in published}


def _texts(examples: Dataset | None, split: str) -> set[str]:
    return {document_id(row.text) for row in Examples(examples).rows(split)} if examples else set()


def _documents(tokens: Dataset | None, split: str) -> set[str]:
    return set(doc_ids(Tokens(tokens), split)) if tokens else set()
