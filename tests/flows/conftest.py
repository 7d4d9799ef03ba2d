"""What the tests of the registry share: MLflow's real registry, and small models with known shares of right answers."""

import itertools
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.home import Home
from flows.servers.mlflow_database import ensure_mlflow_database
from flows.tracking.registry import set_champion
from gpt.config import Config
from pipelines.catalog.registry import CHALLENGER, find_version, registered
from pipelines.chain import Evaluated
from pipelines.corpus.examples import EXAMPLES_SCHEMA
from pipelines.evaluation.classifier import EVALUATE_CLASSIFIER, EvaluateClassifierConfig
from pipelines.evaluation.promotion import ClassificationCriterion, PromoteConfig
from pipelines.evaluation.results import statistics, write_evaluation
from pipelines.evaluation.tasks import TRIAL
from pipelines.evaluation.trial import TRY
from pipelines.store.step import StepType

TRUTH = ["spam", "ham"] * 100
NUMBERS = itertools.count()
HELD_OUT = [{"example_id": f"{i}", "text": f"text {i}", "split": "validation", "label": "spam"} for i in range(40)]


class Content(Config):
    content: str


class Family:
    """Models of one name, each with a share of right answers, registered as a run would."""

    def __init__(self, home, client):
        self.home, self.client, self.name = home, client, f"family-{next(NUMBERS)}"
        self.examples = self.publish("examples", "held-out", {"n": "1"})
        self.right = {}
        self.on_test = {}
        client.create_registered_model(self.name)

    def publish(self, kind, name, content):
        type = StepType(f"make-{kind}", kind, 1, Content, lambda: {})
        config = Content(content=f"{self.name} {content}")

        def run(out, scratch):
            (out / "tokenizer.json").write_text("{}")
            (out / "content").write_text(config.content)
            if kind == "examples":
                pq.write_table(pa.Table.from_pylist(HELD_OUT, EXAMPLES_SCHEMA), out / "examples.parquet")
            return {"task": "classification"}

        return self.home.store.build(type.using(name, config, {}), run)

    def model(self, right, champion=None):
        """Publish a model and register it: the first as the champion, by default."""
        model = self.publish("model", self.name, right)
        self.right[model.ref.fingerprint] = right
        tags = {"tokenmill.fingerprint": model.ref.fingerprint}
        version = self.client.create_model_version(self.name, model.path.as_uri(), tags=tags).version
        if len(self.right) == 1 if champion is None else champion:
            set_champion(self.client, self.name, version, "The first.")
        else:
            self.client.set_registered_model_alias(self.name, CHALLENGER, version)
        return model

    def perform(self, step):
        """Publish a trial or an evaluation with the model's share of right answers."""
        inputs = step.inputs
        assert step.type in (EVALUATE_CLASSIFIER, TRY)
        self.evaluated = step.name
        stage = TRIAL if step.type is TRY else "classify"
        share = self.right[inputs["model"].ref.fingerprint]
        if step.type is EVALUATE_CLASSIFIER:
            share = self.on_test.get(inputs["model"].ref.fingerprint, share)
        elif step.config.baseline:
            share = 0.0

        def run(out, scratch):
            right = np.arange(200) < share * 200
            answers = [a if ok else {"spam": "ham", "ham": "spam"}[a] for a, ok in zip(TRUTH, right, strict=True)]
            digest = inputs["examples"].ref.digest
            items = [f"{digest}-{i}" for i in range(200)]
            write_evaluation(
                out, {"model": {"f1": 0.5}}, pa.table({"item": items, "truth": TRUTH, "model_label": answers})
            )
            metrics = {"model": {"f1": right.mean(), "accuracy": right.mean()}}
            return {"task": "classification", "items": 200, "positive": "spam", **statistics(stage, metrics)}

        return self.home.store.build(step, run)

    def evaluate(self, model, examples=None):
        step = self.step(model, examples or self.examples)
        return Evaluated(step, self.perform(step))

    def step(self, model, examples):
        return EVALUATE_CLASSIFIER.using(self.name, EvaluateClassifierConfig(), {"model": model, "examples": examples})

    def gate(self, again=False, **criterion):
        from flows.orchestration.gate import Gate  # Prefect takes seconds to import

        criterion = ClassificationCriterion(**{"guard": {}, **criterion})
        config = SimpleNamespace(promote=PromoteConfig(classification=criterion))
        return Gate(self.perform, self.home, SimpleNamespace(client=self.client), config, again)

    def aliases(self):
        return {alias: v.version for v in registered(self.home.mlflow_uri, self.name) for alias in v.aliases}

    def tags(self, version):
        return find_version(self.home.mlflow_uri, self.name, version=version).tags


class Killed(BaseException):
    pass


class Dying:
    """A client that dies at its n-th write."""

    Killed = Killed

    def __init__(self, client, writes):
        self.client, self.left = client, writes

    def __getattr__(self, name):
        method = getattr(self.client, name)
        if not name.startswith(("set_", "delete_", "update_")):
            return method

        def write(*arguments, **named):
            if not self.left:
                raise Killed
            self.left -= 1
            return method(*arguments, **named)

        return write


@pytest.fixture(scope="session")
def make_family(tmp_path_factory):
    """make_family() makes a family of models in a home that all tests of the session share."""
    from mlflow.tracking import MlflowClient

    home = Home(tmp_path_factory.mktemp("home"))
    ensure_mlflow_database(home.mlflow_uri, home.artifacts)
    client = MlflowClient(home.mlflow_uri)
    return lambda: Family(home, client)


@pytest.fixture
def family(make_family):
    return make_family()


@pytest.fixture
def dying():
    """dying(client, n) returns a client that raises `dying.Killed` at its n-th write."""
    return Dying
