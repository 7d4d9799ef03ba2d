"""A run's configuration: one TOML file, a table per step, checked before anything starts."""

import math
import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from gpt.config import Config
from pipelines.corpus.examples import ExamplesConfig
from pipelines.corpus.ingest.config import IngestConfig
from pipelines.corpus.mix import MixConfig
from pipelines.corpus.places import Folders
from pipelines.errors import InputError, did_you_mean
from pipelines.evaluation.assistant import EvaluateAssistantConfig
from pipelines.evaluation.classifier import EvaluateClassifierConfig
from pipelines.evaluation.language_model import EvaluateLanguageConfig
from pipelines.evaluation.multiple_choice import MultipleChoiceConfig
from pipelines.evaluation.promotion import PromoteConfig
from pipelines.overrides import apply_override, key_of
from pipelines.report.report import ReportConfig
from pipelines.store.manifest import Name
from pipelines.tokens.samples import SampleConfig
from pipelines.tokens.tokenize import TokenizeConfig
from pipelines.training.finetune_assistant import AssistantConfig
from pipelines.training.finetune_classifier import ClassifierConfig
from pipelines.training.pretrain import PretrainConfig

SHIPPED = (Path(__file__).parents[1] / "tokenmill" / "configs").resolve()
"""The shipped configs, in a checkout as in a wheel."""


def find_config(path: Path | str) -> Path:
    """Return a path, or the shipped config that it names: `quickstart`, or `configs/quickstart.toml` elsewhere."""
    path = Path(path).expanduser()
    ours = SHIPPED / f"{path.name.removesuffix('.toml')}.toml"
    return ours if str(path.parent) in (".", "configs") and not path.is_file() and ours.is_file() else path


class ClassificationRun(Config):
    """A classifier: its examples, its training and its evaluation."""

    task: Literal["classification"]
    """Says that this is a classifier."""
    examples: ExamplesConfig
    """Where the labelled texts come from."""
    training: ClassifierConfig = ClassifierConfig()
    """How the classifier is fine-tuned."""
    compare_from_scratch: bool = True
    """Also train it from random weights, to see what pretraining is worth."""
    evaluate: EvaluateClassifierConfig = EvaluateClassifierConfig()
    """How it is evaluated on held-out examples."""


class InstructionRun(Config):
    """An assistant that follows instructions: its examples, its training and its evaluation."""

    task: Literal["instruction"]
    """Says that this is an assistant."""
    examples: ExamplesConfig
    """Where the instructions and responses come from."""
    training: AssistantConfig = AssistantConfig()
    """How the assistant is fine-tuned."""
    evaluate: EvaluateAssistantConfig = EvaluateAssistantConfig()
    """How it is evaluated on held-out examples."""


FinetuneRun = Annotated[ClassificationRun | InstructionRun, Field(discriminator="task")]


class RunConfig(Config):
    """A whole chain, from source files to evaluated models."""

    name: Name
    """Names the pipeline, its MLflow experiment and its models."""
    corpus: Name | None = None
    """Names the corpus, its tokens and samples, so that runs can share them; by default the run's name."""
    base: str | None = None
    """A pretrained model to start from instead of random weights: `champion` (the run's own, if it has one), NAME,
    NAME@ALIAS, NAME/VERSION or NAME@FINGERPRINT. Its tokenizer replaces the encoding."""
    ingest: IngestConfig | None = None
    """Where the text comes from and how it is cleaned."""
    corpora: dict[Name, IngestConfig] = {}
    """Instead of one ingest, several by name, whose corpora are mixed."""
    mix: MixConfig | None = None
    """How much of each of the corpora is taken."""
    tokenize: TokenizeConfig = TokenizeConfig()
    """The tokenizer."""
    sample: SampleConfig = SampleConfig()
    """The windows that training sees."""
    pretrain: PretrainConfig = PretrainConfig()
    """The model and its pretraining."""
    evaluate: EvaluateLanguageConfig = EvaluateLanguageConfig()
    """How the pretrained model is evaluated."""
    tasks: dict[Name, MultipleChoiceConfig] = {}
    """Tasks of multiple choice by name, on which the pretrained model is evaluated too."""
    finetune: dict[Name, FinetuneRun] = {}
    """Fine-tuned models by name, each from the pretrained one."""
    promote: PromoteConfig = PromoteConfig()
    """When a model becomes the champion of its name."""
    report: ReportConfig = ReportConfig()
    """The page about it all."""

    @property
    def experiment(self) -> str:
        """The experiment of MLflow that the run belongs to."""
        return self.name

    @property
    def data(self) -> str:
        """The name of the corpus that is tokenized, and of its tokens and samples."""
        return self.corpus or self.name

    @model_validator(mode="after")
    def _one_corpus(self) -> Self:
        if bool(self.ingest) == bool(self.corpora):
            raise ValueError("give either one ingest, or several corpora and how to mix them")
        if bool(self.corpora) != bool(self.mix):
            raise ValueError("corpora and mix belong together: one names the corpora, the other how much of each")
        if self.mix and self.mix.names != self.corpora.keys():
            odd = ", ".join(sorted(self.mix.names ^ self.corpora.keys()))
            raise ValueError(f"the mix has to name each of the corpora once; look at {odd}")
        if self.data in self.corpora:
            raise ValueError(f"{self.data!r} is what the mix is called, so none of its corpora can be")
        if len({each.split for each in self.corpora.values()}) > 1:
            raise ValueError("corpora that are mixed have to hold out the same shares, so that no text is on two sides")
        return self

    @model_validator(mode="after")
    def _numbers_that_databases_hold(self) -> Self:
        for key, number in _numbers(self):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{key} = {number} is no number")
            if isinstance(number, int) and abs(number) > LARGEST:
                raise ValueError(f"{key} is too large; databases hold whole numbers up to {LARGEST:,}")
        return self


LARGEST = 2**63 - 1
SHOWN = 200  # characters of a wrong value
PROPOSED = 3  # keys in place of a wrong one


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number of a config with its key."""
    if isinstance(value, BaseModel):
        value = dict(value)
    if isinstance(value, int | float):
        yield key, value
    elif isinstance(value, dict | list | tuple):
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _numbers(each, f"{key}.{name}" if key else str(name))


def load_config(
    path: Path | str,
    overrides: Sequence[str] = (),
    folder: Path | None = None,
    warn: Callable[[str], object] = warnings.warn,
) -> RunConfig:
    """Read a run's TOML file. Its relative paths start from its folder.

    Args:
        path: the file.
        overrides: `section.key=value` each, the value in TOML; a bare word is a string.
        folder: where relative paths in the overrides start, by default the current folder.
        warn: receives a sentence about a path that is not where it should be.

    Raises:
        InputError: the file does not exist, is not TOML, or does not describe a run.
    """
    path = find_config(path)
    try:
        content = path.read_bytes()
        values = tomllib.loads(content.decode("utf-8-sig"))  # editors of Windows write a mark first
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError(f"There is no config file {path}; the shipped ones are in {SHIPPED}.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        utf_16 = " (it looks like UTF-16)" if b"\0" in content[:100] else ""
        raise InputError(f"{path} is not UTF-8{utf_16}, which TOML has to be; save it as UTF-8.") from None
    except (ValueError, RecursionError) as error:  # also of a number of thousands of digits
        raise InputError(f"{path} is not valid TOML: {error}.") from None
    for override in overrides:
        apply_override(values, override)
    here = (folder or Path()).absolute()
    return parse_config(values, str(path), overrides, Folders(path.absolute().parent, here, warn))


def parse_config(
    values: dict[str, Any], where: str, overrides: Sequence[str] = (), folders: Folders | None = None
) -> RunConfig:
    """Check a run's values.

    Args:
        values: the tables of a config.
        where: names the place of the values in the error's sentence.
        overrides: those that were applied. An error in one names it, and not the place.
        folders: where relative paths start, by default the current folder.

    Raises:
        InputError: the values do not describe a run.
    """
    try:
        return RunConfig.model_validate(values, context=folders)
    except ValidationError as error:
        wrong, _ = _walk(RunConfig.model_json_schema(), error.errors()[0]["loc"])
        guilty = [each for each in overrides if _is_one_in_the_other(key_of(each), wrong)]
        where = f"--set {'.'.join(key_of(guilty[-1]))}" if guilty else where
        raise InputError(f"{where}: {explain(error, RunConfig, values)}") from None


def _is_one_in_the_other(key: Sequence[str], other: Sequence[str]) -> bool:
    common = min(len(key), len(other))
    return common > 0 and key[:common] == other[:common]


def explain(error: ValidationError, model: type[BaseModel], values: Mapping[str, Any] | None = None) -> str:
    """Return a validation error as one sentence that names the key and, for an unknown key, the nearest valid one.

    Args:
        error: what pydantic raised.
        model: the config's.
        values: the config, whose names are put into the keys that are proposed.
    """
    first = error.errors()[0]
    schema = model.model_json_schema()
    location, known = _walk(schema, first["loc"])
    key = ".".join(location)
    if first["type"] == "extra_forbidden":
        if elsewhere := [each for each in _keys(schema, schema, values) if each.split(".")[-1] == location[-1]]:
            return f"there is no key {key!r}; did you mean {' or '.join(elsewhere[:PROPOSED])}?"
        hint = did_you_mean(location[-1], known, f"known keys are {', '.join(sorted(known))}.")
        return f"unknown key {key!r}; {hint}"
    if first["type"] == "missing":
        return f"{key!r} is missing; add it to the config."
    message = first["msg"].removeprefix("Value error, ")
    shown = not isinstance(first["input"], dict | list) and "://" not in str(first["input"])  # which may hold a secret
    value = repr(first["input"])
    given = (
        f", not {value if len(value) <= SHOWN else f'{value[:SHOWN]} …'}" if shown and first["type"] != "secret" else ""
    )
    sentence = f"{message[0].lower()}{message[1:]}{given}."
    return f"{key!r} is wrong: {sentence}" if key else sentence


def _walk(schema: Mapping[str, Any], location: Sequence[str | int]) -> tuple[list[str], list[str]]:
    """Follow an error's location through a JSON Schema.

    Returns:
        The location as a person wrote it (without the tags of unions), and the keys that are known in its last table.
    """
    written: list[str] = []
    known: list[str] = []
    here: Mapping[str, Any] = schema
    for part in location:
        options = _options(here, schema.get("$defs", {}))
        fields = {name: field for option in options for name, field in option.get("properties", {}).items()}
        tagged = [each for each in options if part in (f.get("const") for f in each.get("properties", {}).values())]
        if tagged and part not in fields:
            here = tagged[0]
            continue
        known = list(fields)
        written.append(str(part))
        here = fields.get(part, {})
        for option in () if here else options:  # the key of a mapping, or the place in a list
            here = option.get("items") or next(iter(option.get("patternProperties", {}).values()), here)
    return written, known


def _keys(root: Mapping[str, Any], schema: Mapping[str, Any], values: Any, key: str = "") -> Iterator[str]:
    """Yield the dotted keys that a schema knows; those in mappings and lists for the names that the values have."""
    here = values if isinstance(values, Mapping) else dict(enumerate(values)) if isinstance(values, list) else {}
    for option in _options(schema, root.get("$defs", {})):
        fields = option.get("properties", {})
        if any(here.get(name, each["const"]) != each["const"] for name, each in fields.items() if "const" in each):
            continue
        if entry := option.get("items") or next(iter(option.get("patternProperties", {}).values()), None):
            fields = dict.fromkeys(here, entry)
        for name, field in fields.items():
            yield f"{key}{name}"
            yield from _keys(root, field, here.get(name), f"{key}{name}.")


def _options(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the schemas that a schema refers to or is a union of, or itself."""
    if "$ref" in schema:
        return [definitions[schema["$ref"].rpartition("/")[2]]]
    options = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return [each for option in options for each in _options(option, definitions)] or [schema]
