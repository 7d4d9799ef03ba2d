"""A finished home, one of whose files is damaged, and what its commands then do.

    python -m damaged_home HOME SEED SECONDS ROUNDS

builds a small home, damages one file at a time, and reads it in forked processes, so that a signal that ends one is
seen. It prints a line for each failure, and at the end how many processes ran.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa
from chains import builder
from damages import DAMAGES, Draw, put

import flows.cli
import flows.commands.answer
import flows.commands.report
import flows.commands.trace
import flows.outcome
import flows.tracking.registry
from pipelines.catalog.views import rows_of
from pipelines.corpus.documents import Corpus
from pipelines.errors import InputError
from pipelines.evaluation.results import write_evaluation
from pipelines.models.language_model import open_model
from pipelines.models.text_classifier import TextClassifier
from pipelines.report.report import ReportConfig
from pipelines.store.dataset import Dataset
from pipelines.store.kinds import kind_of
from pipelines.store.manifest import MANIFEST, FileEntry, files_digest
from pipelines.store.step import StepContext, StepType
from pipelines.store.store import Store
from pipelines.tokens.samples import SAMPLE, Samples
from pipelines.tokens.shards import Tokens
from pipelines.tokens.templates import save_template, template_named
from pipelines.tokens.tokenized_examples import TokenizedExamples
from pipelines.training.loader import Loader

SECONDS, MEMORY = 60, 8 << 30  # of one process


def finish(home: Path) -> Store:
    """Build a home that has a dataset of every kind."""
    build, store = builder(home, ""), Store(home / "data")
    tokens, model = build("tokenize"), build("pretrain")
    build("finetune-classifier")
    packed = SAMPLE.using("packed", SAMPLE.config(context=16, boundaries="document"), {"tokens": tokens})
    store.build(packed, lambda out, scratch: SAMPLE.run(packed.inputs, packed.config, out, StepContext(scratch)))

    def publish(kind: str, role: str, write: Callable[[Path], object]) -> None:
        def run(out: Path, scratch: Path) -> dict[str, object]:
            write(out)
            return {"task": "language", "parameters": 7}

        store.build(
            StepType(f"make-{kind}", kind, 1, ReportConfig, run).using(kind, ReportConfig(), {role: model}), run
        )

    def write_assistant(out: Path) -> None:
        shutil.copytree(model.path, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        save_template(template_named("plain"), out / "template.json")

    predictions = pa.table({"item": ["a", "b"], "tokens": [3, 4], "model_loss": [1.5, 2.5]})
    metrics = {"model": {"loss": 1.5}, "unigram": {"loss": 2.5}}
    publish("model", "base", write_assistant)
    publish("evaluation", "model", lambda out: write_evaluation(out, metrics, predictions))
    publish("report", "model", lambda out: (out / "report.html").write_text("<p>7 tokens</p>"))
    return store


def commands(home: Path, document: str) -> dict[str, list[list[str]]]:
    """Return the commands that read the files of a pattern."""

    def sql(*queries: str) -> list[list[str]]:
        return [["sql", "--format", "json", query] for query in queries]

    def generate(model: str) -> list[list[str]]:
        return [["generate", "In the", "--model", f"model/{model}", "--max-new-tokens", "4", "--temperature", "0"]]

    return {
        "tokens/*/*.arrow": sql(
            "select sum(list_sum(tokens)), sum(n_tokens), max(length(doc_id)), max(start) from tokens",
            "select sum(length(decode(tokens, dataset))) from tokens",
            "select sum(documents), sum(tokens) from shards",
            "select sum(length(sample_text(i, 'sample'))) from range(9) t(i)",
        ),
        "tokens/*/tokenizer.json": sql("select sum(n_bytes), max(text) from vocabulary", "select encode('the')"),
        "samples/sample-*/*.arrow": sql(
            "select max(length(doc_id)), max(start), count(*) from samples", "select sample_text(3, 'sample')"
        ),
        "samples/packed-*/*.arrow": sql("select max(length(doc_id)), sum(list_sum(lengths)) from samples"),
        "lessons/*/*.arrow": sql("select sum(list_sum(tokens)), max(label), count(*) from lessons"),
        "corpus/*/documents/*.parquet": [
            *sql("select sum(length(text)), max(doc_id), count(*) from documents"),
            ["trace", document],
        ],
        "corpus/*/rejected.parquet": sql("select max(doc_id), max(text), count(*) from rejected"),
        "examples/*/examples.parquet": sql("select max(example_id), sum(length(text)) from examples"),
        "model/pretrain-*/*.*": generate("pretrain"),
        "model/finetune-*/*.*": [["classify", "some code", "--model", "model/finetune-classifier"]],
        "model/model-*/template.json": generate("model"),
        "evaluation/*/metrics.parquet": sql("select sum(value), max(metric) from evaluations"),
        "evaluation/*/predictions.parquet": sql("select sum(model_loss), max(item) from predictions"),
        "report/*/report.html": [["report", "report", "--output", str(home / "copy.html")]],
        f"*/*/{MANIFEST}": [
            ["datasets", "ls"],
            *sql("select sum(bytes), count(*) from datasets", "select count(*) from lineage", "select 1"),
        ],
    }


@dataclass
class Trial:
    """Processes that read damaged files, and what went wrong in them."""

    home: Path
    store: Store
    draw: Draw
    undamaged: dict[tuple[str, ...], str] = field(default_factory=dict)
    processes: int = 0
    failures: list[str] = field(default_factory=list)

    def fork(self, work: Callable[[], object]) -> tuple[int, str, str]:
        """Do something in a forked process with limits; return its exit code (below 0: a signal) and what it wrote."""
        self.processes += 1
        sys.stdout.flush()
        out, err = os.memfd_create("out"), os.memfd_create("err")
        child = os.fork()
        if child == 0:
            code = 70
            try:
                os.dup2(out, 1)
                os.dup2(err, 2)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
                signal.alarm(SECONDS)
                work()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        written = []
        for file in (out, err):
            with os.fdopen(file, "rb") as text:
                text.seek(0)
                written.append(text.read().decode("utf-8", "replace"))
        return os.waitstatus_to_exitcode(status), written[0], written[1]

    def command(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command of the command line in a forked process."""

        def work() -> None:
            sys.argv = ["tokenmill", *arguments]
            flows.cli.main()

        return self.fork(work)

    def damage(self, pattern: str) -> Iterator[tuple[Path, str]]:
        """Damage one of the files of a pattern, yield it with the kind of damage, and mend it."""
        files = sorted(self.store.root.glob(pattern))
        path = self.draw.choice([each for each in files if pattern.endswith(MANIFEST) or each.name != MANIFEST])
        kind, before = self.draw.choice(list(DAMAGES)), path.read_bytes()
        after = DAMAGES[kind](before, self.draw)
        if after != before:
            put(path, after)
            yield path, kind
            put(path, before)

    def read_undamaged(self, arguments: tuple[str, ...]) -> str:
        """Return what a command prints if nothing is damaged."""
        if arguments not in self.undamaged:
            code, self.undamaged[arguments], err = self.command(*arguments)
            self.expect(code == 0 and not err, "undamaged", arguments, code, err)
        return self.undamaged[arguments]

    def read_damaged(self, pattern: str, readers: list[list[str]]) -> None:
        """Run a command that reads a damaged file, and now and then commands that do not."""
        arguments = tuple(self.draw.choice(readers))
        undamaged = self.read_undamaged(arguments)
        for path, kind in self.damage(pattern):
            code, out, err = self.command(*arguments)
            said = " ".join((out + err).split())
            named = f"{path} is damaged; see tokenmill datasets verify " in said
            if path.name == MANIFEST:  # the other datasets are shown, after one warning
                fine = code == 0 and (said.count(f"{path} is damaged") == 1 or out == undamaged)
            else:
                fine = (code == 0 and out == undamaged) or (code == 2 and named)
            self.expect(fine, path, kind, arguments, code, said)
            if self.draw.random() < 0.7 or (code == 0 and not named):  # a change of JSON's layout only
                continue
            code, out, err = self.command("sql", "--format", "csv", "select 1 as one")
            self.expect((code, out) == (0, "one\n1\n"), path, kind, "select 1", code, out + err)
            verified, out, err = self.command("datasets", "verify")
            self.expect(verified == 1 and path.name in out, path, kind, "verify", verified, out + err)

    def expect(self, fine: bool, *what: object) -> None:
        """Note a failure."""
        if not fine:
            self.failures.append(" | ".join(str(each)[-700:] for each in what))


# Files that are damaged, and whose manifest says so: a hostile bucket has such


def seal(path: Path, content: bytes) -> Dataset:
    """Write a file of a dataset again, with a manifest that fits it."""
    put(path, content)
    folder = next(each for each in path.parents if (each / MANIFEST).exists())
    dataset = Dataset.load(folder)
    assert dataset
    entry = FileEntry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    files = dataset.manifest.files | {path.relative_to(folder).as_posix(): entry}
    manifest = dataset.manifest.model_copy(update={"files": files, "digest": files_digest(files)})
    (folder / MANIFEST).write_bytes(manifest.to_json())
    return Dataset(folder, manifest)


def read_everything(dataset: Dataset, store: Store) -> None:
    """Read a dataset in every way that there is."""
    for work in ways_to_read(dataset, store):
        try:
            work()
        except (InputError, duckdb.Error, pa.ArrowException, ValueError, OSError) as error:
            print(type(error).__name__, error)


def ways_to_read(dataset: Dataset, store: Store) -> Iterator[Callable[[], object]]:
    """Yield functions that read a dataset."""
    for view in kind_of(dataset.manifest.kind).views:
        yield lambda view=view: read_view(dataset, view)
    if dataset.manifest.kind == "tokens":
        samples = [each for each in store.list("samples") if each.manifest.inputs["tokens"].key == dataset.ref.key]
        yield lambda: [list(Tokens(dataset).streams(split)) for split in ("train", "validation", "test")]
        for each in samples:
            yield lambda each=each: train_on(each, dataset)
    elif dataset.manifest.kind == "samples":
        yield lambda: train_on(dataset, store.open(dataset.manifest.inputs["tokens"].key.replace("-", "@")))
    elif dataset.manifest.kind == "lessons":
        yield lambda: TokenizedExamples(dataset).check(300, 32)
        yield lambda: [TokenizedExamples(dataset).tokens(split) for split in ("train", "validation", "test")]
    elif dataset.manifest.kind == "model":
        yield lambda: use(dataset.path)


def read_view(dataset: Dataset, view: object) -> None:
    rows = rows_of(dataset, view)  # type: ignore[arg-type]
    if rows is not None:
        with duckdb.connect() as connection:
            connection.register("rows", rows)
            connection.execute("SELECT bit_xor(hash(r)) FROM rows r").fetchall()


def train_on(samples: Dataset, tokens: Dataset) -> None:
    loader = Loader(Samples(samples), Tokens(tokens), "train", batch_size=8, ahead=False)
    for step in range(len(loader)):
        batch = loader(step)
        assert int(batch.inputs.min()) >= 0 and int(batch.inputs.max()) < 300


def use(folder: Path) -> None:
    model = open_model(folder)
    if isinstance(model, TextClassifier):
        model.classify(["some code"])
    else:
        model.complete(["In the"])


SEALED = [
    "tokens/*/*.arrow",
    "samples/*/*.arrow",
    "lessons/*/*.arrow",
    "tokens/*/tokenizer.json",
    "model/*/tokenizer.json",
    "model/*/config.json",
    "model/*/template.json",
    "model/*/model.safetensors",
]


def read_sealed(trial: Trial, pattern: str, n: int) -> None:
    """Read files whose damage no checksum shows: many in one process, which may raise errors and may not die."""
    path = trial.draw.choice(sorted(trial.store.root.glob(pattern)))
    folder = next(each for each in path.parents if (each / MANIFEST).exists())
    before, manifest = path.read_bytes(), (folder / MANIFEST).read_bytes()
    kinds = [kind for kind in DAMAGES if kind != "a folder"]
    contents = [(kind, DAMAGES[kind](before, trial.draw)) for kind in trial.draw.choices(kinds, k=n)]

    def work() -> None:
        for number, (_, content) in enumerate(contents):
            print(f"\n#{number}", flush=True)
            read_everything(seal(path, content or b""), trial.store)

    code, out, err = trial.fork(work)
    if code:
        kind, content = contents[int(out.rpartition("#")[2].split()[0])]
        kept = trial.home / f"fatal-{trial.processes}{path.suffix}"
        kept.write_bytes(content or b"")
        trial.expect(False, path, kind, kept, code, out[-300:] + err)
    put(path, before)
    put(folder / MANIFEST, manifest)


def main(home: Path, seed: int, seconds: float, rounds: int) -> None:
    """Damage files until the time is over, or for some rounds, and print what went wrong."""
    os.environ["TOKENMILL_HOME"] = str(home)
    store = finish(home)
    end = time.monotonic() + seconds
    trial = Trial(home, store, Draw(seed))
    document = next(iter(Corpus(store.open("corpus")).batches(["doc_id"])))["doc_id"][0].as_py()
    work: list[Callable[[], None]] = [partial(read_sealed, trial, pattern, 15) for pattern in SEALED]
    work += [partial(trial.read_damaged, *each) for each in commands(home, document).items()]
    while rounds and time.monotonic() < end:
        rounds -= 1
        for each in trial.draw.sample(work, len(work)):
            if time.monotonic() < end:
                each()
    print("\n".join([*trial.failures, f"{trial.processes} processes, {len(trial.failures)} failures"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
