"""A small real text, a chain that runs on it through the command line, and checks that several files share."""

import json
import os
import pydoc_data.topics
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from postgres_server import running_postgres

from flows.home import Home
from flows.servers.stack import Stack
from flows.tracking.registry import promote_by_hand
from pipelines.store.store import Store

ROOT = Path(__file__).parents[2]
KILLER = Path(__file__).with_name("killer.py")

CONFIG = """
name = "tiny"
corpus = "topics"
[ingest]
split = {{ validation = 0.15, test = 0.15 }}
[[ingest.sources]]
uri = "{texts}/*.txt"
[tokenize]
encoding = "bpe"
vocabulary = 400
[sample]
context = 64
stride = 64
[pretrain]
steps = 12
batch_size = 8
threads = 1
evaluate_every = 6
checkpoint_every = 2
log_every = 1
prompts = ["The"]
[pretrain.model]
size = "pico"
[finetune.sort]
task = "classification"
[finetune.sort.examples]
split = {{ validation = 0.05, test = 0.3 }}
[[finetune.sort.examples.sources]]
uri = "{texts}/labels.tsv"
label = "label"
[finetune.sort.training]
steps = 6
batch_size = 8
threads = 1
trainable = "all"
evaluate_every = 3
[finetune.answer]
task = "instruction"
[finetune.answer.examples]
split = {{ validation = 0.2, test = 0.3 }}
[[finetune.answer.examples.sources]]
uri = "{texts}/answers.jsonl"
response = "response"
[finetune.answer.training]
steps = 6
batch_size = 8
threads = 1
evaluate_every = 3
[finetune.answer.evaluate]
max_new_tokens = 8
"""


@dataclass(frozen=True)
class Place:
    """A tokenmill home with a tiny config and the texts that the config names."""

    home: Path
    config: Path

    def tokenmill(
        self, *arguments: str, check: bool = True, umask: int = -1, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line in the home until it ends."""
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments],
            env=self.environment | environment,
            cwd=self.home,
            umask=umask,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert not check or done.returncode == 0, done.stderr + done.stdout
        return done

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "TOKENMILL_"))}
        return kept | {"TOKENMILL_HOME": str(self.home), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}

    @property
    def store(self) -> Store:
        return Store(self.home / "data")

    def contents(self) -> dict[str, Any]:
        """Map each dataset to its fingerprint and files. A report's files hold times, so they are left out."""
        return {
            f"{dataset.ref.kind}/{dataset.ref.name}": (
                dataset.ref.fingerprint,
                None if dataset.ref.kind == "report" else dataset.manifest.files,
            )
            for dataset in self.store.list()
        }

    def mlflow(self, query: str, *values: str) -> list[Any]:
        """Return the rows of a query on the home's MLflow database."""
        with sqlite3.connect(self.home / "mlruns" / "mlflow.db") as database:
            return database.execute(query, values).fetchall()


def make_place(home: Path) -> Place:
    """Write a home with texts from the Python reference: documents, labelled lines, and questions with answers."""
    texts = home / "texts"
    texts.mkdir(parents=True)
    topics = sorted(pydoc_data.topics.topics.items())
    for name, text in topics[:40]:
        (texts / f"{name.replace('/', '-')}.txt").write_text(text[:3000])
    lines = [line.strip() for _, text in topics for line in text.splitlines() if 30 < len(line.strip()) < 70]
    labelled = [("code" if any(c in line for c in "()=[]") else "prose", line) for line in lines[:160]]
    (texts / "labels.tsv").write_text(
        "label\ttext\n" + "".join(f"{a}\t{b.replace(chr(9), ' ')}\n" for a, b in labelled)
    )
    pairs = [{"instruction": f"Topic {name}?", "response": text.split("\n")[0][:60] or name} for name, text in topics]
    (texts / "answers.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    config = home / "tiny.toml"
    config.write_text(CONFIG.format(texts=texts))
    return Place(home, config)


@pytest.fixture(scope="session", autouse=True)
def private_umask() -> Iterator[None]:
    """Tests that read a home make files in it too, with the umask of a command."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, subprocess.CompletedProcess[str]]:
    """A place in which the whole chain has run once, and the finished process. Tests only read the place.

    The gate has too few items for a decision, so a person makes the models champions.
    """
    place = make_place(tmp_path_factory.mktemp("finished"))
    done = place.tokenmill("run", str(place.config), "--tag", "team=b", "--note", "A first try.", umask=0)
    for name in ("tiny", "tiny-sort", "tiny-answer"):
        promote_by_hand(Home(place.home), f"{name}/1", "for the tests")
    return place, done


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """free_port() returns a port of this machine on which nobody listens."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.fixture(scope="session")
def postgres(free_port: Callable[[], int]) -> Iterator[str]:
    """Start a PostgreSQL server with two databases, and yield `user:password@host:port`."""
    with running_postgres(free_port()) as base:
        yield base


@pytest.fixture(scope="module")
def prefect_stack(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Stack]:
    """A Prefect server that outlives the runs of a test file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # so that no MLflow server starts
        stack = Stack(tmp_path_factory.mktemp("server"), prefect_port=free_port())
        stack.up()
        try:
            yield stack
        finally:
            stack.down()


@pytest.fixture
def query_prefect(prefect_stack: Stack) -> Callable[..., list[Any]]:
    """query_prefect(SQL, values ...) returns rows from the database of that Prefect server."""

    def query(sql: str, *values: str) -> list[Any]:
        with sqlite3.connect(prefect_stack.home / ".tokenmill" / "prefect" / "prefect.db") as database:
            return database.execute(sql, values).fetchall()

    return query


@pytest.fixture
def environment(prefect_stack: Stack, place: Place) -> dict[str, str]:
    """The variables of a run that uses that Prefect server, and the MLflow of its own home."""
    server = {name: value for name, value in prefect_stack.environment().items() if not name.startswith("MLFLOW_")}
    return place.environment | server | {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def assert_as_undisturbed(place: Place, finished: tuple[Place, Any]) -> Callable[[], None]:
    """assert_as_undisturbed() compares the place with one whose run nothing disturbed."""

    def check() -> None:
        store = place.store
        published = store.list()
        assert [store.verify(dataset) for dataset in published] == [[]] * len(published)
        assert place.contents() == finished[0].contents()
        assert not list(store.root.glob(".staging/*")) and not list(store.root.glob(".scratch/*"))

        assert place.mlflow("SELECT count(*) FROM runs WHERE status = 'RUNNING'") == [(0,)]
        built = "SELECT status FROM runs WHERE run_uuid = ?"
        for dataset in published:
            assert place.mlflow(built, dataset.manifest.built["mlflow_run_id"]) == [("FINISHED",)], dataset
        pretrain = store.open("model/tiny").manifest.built["mlflow_run_id"]
        curve = "SELECT DISTINCT step FROM metrics WHERE run_uuid = ? AND key = 'train/loss' ORDER BY step"
        assert place.mlflow(curve, pretrain) == [(step,) for step in range(12)], "the curve is complete"
        decided = place.mlflow("SELECT name, value FROM model_version_tags WHERE key = 'tokenmill.decision'")
        assert sorted(decided) == [(name, "not promoted") for name in ("tiny", "tiny-answer", "tiny-sort")]
        assert place.mlflow("SELECT count(*) FROM model_versions") == [(4,)], "each is registered once"

    return check


@pytest.fixture
def kill_runs(
    place: Place,
    environment: dict[str, str],
    query_prefect: Callable[..., list[Any]],
    assert_as_undisturbed: Callable[[], None],
) -> Callable[[str], list[tuple[str, str, int]]]:
    """kill_runs(what) kills one run after another until one ends, checks the result, and returns the points.

    `what` is a part of the chain, or STEP/MOMENT: see killer.py.
    """

    def kill(what: str) -> list[tuple[str, str, int]]:
        done = subprocess.run(
            [sys.executable, str(KILLER), str(place.home), str(place.config), what],
            env=environment,
            capture_output=True,
            text=True,
        )
        print(done.stdout)  # the points of the kills, for the reader of a failure
        assert done.returncode == 0, done.stderr
        points = [(step, moment, n) for step, moment, n in json.loads(done.stdout.splitlines()[-1])]
        assert_as_undisturbed()
        states = query_prefect("SELECT state_type FROM flow_run WHERE parameters LIKE ?", f"%{place.home}/%")
        assert states.count(("CRASHED",)) >= len(points) - 1 and states.count(("COMPLETED",)) == 1
        assert query_prefect("SELECT name FROM task_run WHERE state_type IN ('PENDING', 'RUNNING')") == []
        return points

    return kill
