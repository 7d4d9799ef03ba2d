"""The chain: the order and the inputs of the steps, what is resolved, and the fingerprints that must stay."""

import json
import tomllib
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import pipelines.corpus.sources
from pipelines.chain import STEPS, Evaluated, chain, report_on, resolve, result_in
from pipelines.config import load_config
from pipelines.corpus.documents import SIZES, SPLITS
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.errors import InputError
from pipelines.store import lineage
from pipelines.store.manifest import Ref
from pipelines.store.step import StepContext
from pipelines.store.store import Store
from pipelines.tokens.templates import shipped
from pipelines.training.pretrain import PRETRAIN

ROOT = Path(__file__).parents[2]


PLENTY = dict.fromkeys([*SIZES, *(f"examples_{split}" for split in SPLITS), "examples"], 1 << 20)
"""The sizes of a corpus that is large enough."""


def performed(until, *overrides):
    """Return (step, name, roles) of every step of the quick start."""
    steps = []

    def perform(step):
        steps.append((step.type.name, step.name, set(step.inputs)))
        return SimpleNamespace(ref=SimpleNamespace(name=step.name), manifest=SimpleNamespace(statistics=PLENTY))

    chain(perform, load_config(ROOT / "configs" / "quickstart.toml", overrides), until, check=False)
    return steps


def test_pretrained_model_answers_tasks_before_its_own_evaluation():
    task = "tasks.verses={uri='verses.jsonl', shots=2}"
    steps = performed("evaluate", task)
    at = steps.index(("evaluate-task", "quickstart-verses", {"model"}))
    assert steps[at - 1][0] == "pretrain" and steps[at + 1][:2] == ("evaluate-language", "quickstart")
    assert steps[at + 1][2] == {"model", "tokens", "corpus"}
    assert ("evaluate-assistant", "quickstart-assistant", {"model", "base", "examples"}) in steps
    assert not any(step.startswith("evaluate") for step, *_ in performed("finetune", task))


@pytest.mark.parametrize(
    ("sizes", "until", "says"),
    [
        (
            {"documents": 1, "documents_train": 0, "documents_test": 1},
            "tokenize",
            "1 document, and none of .* train on",
        ),
        ({"bytes_train": 90, "documents_train": 2}, "sample", r"a window has sample\.context = 128"),
        ({"documents_test": 0}, "evaluate", r"none in its test split.*\[ingest\.split\]"),
        ({"documents_test": 0, "split": 0}, "evaluate", r"the share test of \[ingest\.split\] is 0"),
        ({"documents_test": 0, "documents_validation": 0}, "pretrain", None),
        ({"examples_validation": 0, "examples": 1}, "finetune", "1 example and none in its validation split"),
        ({"examples_test": 0}, "evaluate", "none in its test split"),
        ({"examples_test": 0}, "finetune", None),
    ],
)
def test_corpus_too_small_for_a_step_is_refused_first(monkeypatch, sizes, until, says):
    for name, size in sizes.items():
        monkeypatch.setitem(PLENTY, name, size)
    with pytest.raises(InputError, match=says) if says else nullcontext():
        performed(until, *(["ingest.split.test=0"] if "split" in sizes else []))


def test_examples_are_read_before_anything_is_trained():
    steps = [name for name, *_ in performed("finetune")]
    assert steps[:4] == ["ingest", "examples", "examples", "tokenize"]
    assert "examples" not in [name for name, *_ in performed("pretrain")]


def test_shipped_templates_are_packaged():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    assert shipped() and all(any(path.match(pattern) for pattern in patterns) for path in shipped().values())


def test_every_step_has_a_headline():
    assert all(type.name == name and type.headline for name, type in STEPS.items())


# A mixture


MIXTURE = """
name = "mixed"
[corpora.books]
split = {{ validation = 0.1, test = 0.1 }}
sources = [{{ uri = "{folder}/books.jsonl" }}]
[corpora.letters]
split = {{ validation = 0.1, test = 0.1 }}
sources = [{{ uri = "{folder}/letters.jsonl" }}]
[mix]
weights = {{ books = 3, letters = 1 }}
[tokenize]
encoding = "characters"
[sample]
context = 16
"""


@pytest.fixture
def mixture(tmp_path):
    """Return the path of the config of a mixture, with its sources beside it."""
    for name, n in (("books", 300), ("letters", 200)):
        lines = (json.dumps({"text": f"{name} {i:03d} is what this is"}) for i in range(n))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    path = tmp_path / "mixed.toml"
    path.write_text(MIXTURE.format(folder=tmp_path))
    return path


class Run:
    """A run without Prefect and MLflow."""

    def __init__(self, config_file, folder):
        self.config, self.store, self.made = load_config(config_file), Store(folder / "data"), []

    def perform(self, step):
        def run(out, scratch):
            return step.type.run(step.inputs, step.config, out, StepContext(scratch))

        self.made.append(self.store.build(step, run))
        return self.made[-1]


def test_mixture_is_tokenized_and_says_what_was_drawn(mixture, tmp_path):
    run = Run(mixture, tmp_path)
    chain(run.perform, run.config, until="sample")
    assert [str(dataset).partition("@")[0] for dataset in run.made] == [
        "corpus/books",
        "corpus/letters",
        "corpus/mixed",
        "tokens/mixed",
        "samples/mixed",
    ]
    books, letters, mixed, tokens, samples = run.made
    assert mixed.manifest.inputs == {"books": books.ref, "letters": letters.ref}
    assert tokens.manifest.statistics["documents"] == mixed.manifest.statistics["documents"]
    statistics = mixed.manifest.statistics
    assert statistics["share_of_books"] == pytest.approx(0.75, abs=0.06)
    assert statistics["epochs_of_books"] == 1 and 0.3 < statistics["epochs_of_letters"] < 0.7
    assert f"books {statistics['share_of_books']:.0%} (1 epoch), letters" in STEPS["mix"].headline(statistics)
    names = {node.name for node in lineage.origins(samples, run.store.list()).nodes()}
    assert {str(books), str(letters), str(mixed)} < names


# Examples that nothing can be learnt from


@pytest.mark.parametrize(
    ("finetune", "says"),
    [
        ("task = 'instruction'\n[[finetune.x.examples.sources]]\nresponse = 'kind'", "no train example of at most 16"),
        (
            "task = 'classification'\ntraining = { threshold = 'f1' }\n[[finetune.x.examples.sources]]\nlabel = 'kind'",
            "there are 3 labels, and a threshold decides between two",
        ),
        (
            "task = 'classification'\ntraining = { positive = 'd' }\n[[finetune.x.examples.sources]]\nlabel = 'kind'",
            "'d' is none of the labels a, b, c",
        ),
    ],
)
def test_finetuning_that_cannot_learn_is_refused_before_training(mixture, tmp_path, finetune, says):
    rows = (
        {"text": f"text {i}", "instruction": f"a long question, number {i}", "kind": "abc"[i % 3]} for i in range(60)
    )
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    mixture.write_text(f"{mixture.read_text()}[finetune.x]\n{finetune}\nuri = 'x.jsonl'\n")
    run = Run(mixture, tmp_path)
    with pytest.raises(InputError, match=says):
        chain(run.perform, run.config)
    assert "model" not in {dataset.ref.kind for dataset in run.made}


# Resolving


def test_chain_is_resolved_up_to_the_first_missing_result(mixture, tmp_path):
    run = Run(mixture, tmp_path)
    chain(run.perform, run.config, until="tokenize")
    resolved = resolve(run.store.find, run.config, "sample")
    assert [step.type.name for step, _ in resolved] == ["ingest", "ingest", "mix", "tokenize", "sample"]
    assert [dataset for _, dataset in resolved] == [*run.made, None]
    for step, dataset in resolved:
        assert result_in(resolved, step.type.using(step.name, step.config, step.inputs)) == dataset


def test_resolved_chain_ends_with_its_report(mixture, tmp_path):
    run = Run(mixture, tmp_path)
    chain(run.perform, run.config, until="ingest")
    assert resolve(run.store.find, run.config, "ingest")[-1] == (report_on(run.config, run.made, []), None)


def test_report_covers_models_that_were_evaluated_but_not_made():
    def dataset(kind, name):
        return SimpleNamespace(ref=SimpleNamespace(kind=kind, name=name))

    corpus, model, other = dataset("corpus", "x"), dataset("model", "x"), dataset("model", "x")
    evaluated = Evaluated(SimpleNamespace(inputs={"model": model, "corpus": other}), dataset("evaluation", "x"))
    config = load_config(ROOT / "configs" / "quickstart.toml")
    assert report_on(config, [corpus], [evaluated]).inputs == {"corpus/x": corpus, "model/x": model}


def test_source_files_are_listed_once_per_step(mixture, tmp_path, monkeypatch):
    listed = []
    real = pipelines.corpus.sources.list_files
    monkeypatch.setattr("pipelines.corpus.sources.list_files", lambda uri: (listed.append(uri), real(uri))[1])
    step = INGEST.using("books", load_config(mixture).corpora["books"])
    assert not listed, "only when they are needed"
    assert (step.fingerprint, step.key, step.sources) and len(listed) == 1
    (tmp_path / "books.jsonl").unlink()
    later = INGEST.using("books", step.config)
    with pytest.raises(InputError, match="does not exist"):
        _ = later.sources
    (tmp_path / "books.jsonl").write_text("{}")
    assert later.sources, "an error is not remembered"


# Fingerprints that must stay, or users would have to build everything again


def dataset(kind):
    return SimpleNamespace(ref=Ref(kind=kind, name="mill", fingerprint="ab" * 32, digest="cd" * 32))


def test_fingerprints_are_those_of_version_0_1_0(tmp_path):
    (tmp_path / "a.txt").write_text("The mill grinds slowly.")
    ingest = INGEST.using("mill", INGEST.config(sources=[{"uri": str(tmp_path / "a.txt")}]))
    assert ingest.fingerprint == "39d4acaa21ca2819272dda9516601a5dfeb92460cd9344e9efa6b74a5c158473"
    inputs = {role: dataset(role) for role in ("samples", "tokens")}
    first = replace(PRETRAIN, version=1)  # the second version chooses on fewer documents
    plain = first.using("mill", PRETRAIN.config(), inputs)
    assert plain.fingerprint == "70e7dba672aa5232a1e7e9c9405b77131417fa4b402320a1bd528d43bbf21b72"
    config = PRETRAIN.config(model={"size": "micro", "preset": "modern", "layers": 3}, steps=10)
    modern = first.using("mill", config, inputs)
    assert modern.fingerprint == "29f968c476295dba2e2c945394d113211623c3bcf3b0cb9df7a89d91fb3539ea"


@pytest.mark.parametrize("name", STEPS)
def test_config_fields_are_recorded_or_marked_as_later(name):
    recorded = json.loads((Path(__file__).parent / "config_fields.json").read_text())[name]
    fields = unmarked_fields(STEPS[name].config.model_json_schema())
    for added in sorted(fields - set(recorded)):
        pytest.fail(
            f"{name} has a new config field {added!r}, so users would build everything again: declare it with "
            'json_schema_extra={"since": "VERSION"}, the version that it first appears in.'
        )
    for removed in sorted(set(recorded) - fields):
        pytest.fail(f"{name} lost its config field {removed!r}, so its fingerprints change and old configs break.")


def unmarked_fields(schema):
    """Return the dotted names of the fields that enter every fingerprint."""
    found = set()

    def walk(model, path):
        for name, field in model.get("properties", {}).items():
            if field.get("fingerprint") is False or "since" in field:
                continue
            found.add(f"{path}{name}")
            for ref in references(field):
                walk(schema["$defs"][ref.rpartition("/")[2]], f"{path}{name}.")

    walk(schema, "")
    return found


def references(value):
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return [*own, *(ref for each in value.values() for ref in references(each))]
    return [ref for each in value for ref in references(each)] if isinstance(value, list) else []
