"""The gate: each decision about a champion is made once, with a reason and a way back, in spite of kills.

MLflow's registry is real; models and evaluations are small stand-ins.
"""

import io
import itertools
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from flows.commands.models import models_table
from flows.home import Home
from flows.orchestration.gate import Gate, evaluation_on
from flows.servers.mlflow_database import ensure_mlflow_database
from flows.tracking import registry
from flows.tracking.registry import DECISION, WHY, find_model, promote_by_hand, roll_back, set_champion
from gpt.config import Config
from pipelines.catalog.registry import CHALLENGER, CHAMPION, find_version, registered
from pipelines.chain import Evaluated
from pipelines.errors import InputError
from pipelines.evaluation.classifier import EVALUATE_CLASSIFIER, EvaluateClassifierConfig
from pipelines.evaluation.promotion import ClassificationCriterion, PromoteConfig
from pipelines.evaluation.results import statistics, write_evaluation
from pipelines.store.step import StepType

TRUTH = ["spam", "ham"] * 100
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    ensure_mlflow_database(home.mlflow_uri, home.artifacts)
    return home


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def client(home):
    from mlflow.tracking import MlflowClient

    return MlflowClient(home.mlflow_uri)


class Content(Config):
    content: str


class Family:
    """Models of one name, each with a share of right answers, registered as a run would."""

    def __init__(self, home, client):
        self.home, self.client, self.name = home, client, f"family-{next(NUMBERS)}"
        self.examples = self.publish("examples", "held-out", {"n": "1"})
        self.right = {}
        client.create_registered_model(self.name)

    def publish(self, kind, name, content):
        type = StepType(f"make-{kind}", kind, 1, Content, lambda: {})
        config = Content(content=f"{self.name} {content}")

        def run(out, scratch):
            (out / "tokenizer.json").write_text("{}")
            (out / "content").write_text(config.content)
            return {"task": "classification"}

        return self.home.store.build(type.using(name, config, {}), run)

    def model(self, right):
        model = self.publish("model", self.name, right)
        self.right[model.ref.fingerprint] = right
        tags = {"tokenmill.fingerprint": model.ref.fingerprint}
        version = self.client.create_model_version(self.name, model.path.as_uri(), tags=tags).version
        if len(self.right) == 1:
            set_champion(self.client, self.name, version, "The first.")
        else:
            self.client.set_registered_model_alias(self.name, CHALLENGER, version)
        return model

    def perform(self, step):
        """Publish an evaluation with the model's share of right answers."""
        inputs = step.inputs
        assert step.type is EVALUATE_CLASSIFIER
        self.evaluated = step.name

        def run(out, scratch):
            right = np.arange(200) < self.right[inputs["model"].ref.fingerprint] * 200
            answers = [a if ok else {"spam": "ham", "ham": "spam"}[a] for a, ok in zip(TRUTH, right, strict=True)]
            digest = inputs["examples"].ref.digest
            items = [f"{digest}-{i}" for i in range(200)]
            write_evaluation(
                out, {"model": {"f1": 0.5}}, pa.table({"item": items, "truth": TRUTH, "model_label": answers})
            )
            metrics = {"model": {"f1": right.mean(), "accuracy": right.mean()}}
            return {"task": "classification", "positive": "spam", **statistics("classify", metrics)}

        return self.home.store.build(step, run)

    def evaluate(self, model, examples=None):
        step = self.step(model, examples or self.examples)
        return Evaluated(step, self.perform(step))

    def step(self, model, examples):
        return EVALUATE_CLASSIFIER.using(self.name, EvaluateClassifierConfig(), {"model": model, "examples": examples})

    def gate(self, again=False, **criterion):
        criterion = ClassificationCriterion(**{"guard": {}, **criterion})
        config = SimpleNamespace(promote=PromoteConfig(classification=criterion))
        return Gate(self.perform, self.home, SimpleNamespace(client=self.client), config, again)

    def aliases(self):
        return {alias: v.version for v in registered(self.home.mlflow_uri, self.name) for alias in v.aliases}

    def tags(self, version):
        return find_version(self.home.mlflow_uri, self.name, version=version).tags


@pytest.fixture
def family(home, client):
    return Family(home, client)


def test_better_model_is_promoted_with_its_reason(family):
    family.model(0.8)
    evaluated = family.evaluate(family.model(0.95))
    version, decision = family.gate().decide(evaluated)
    assert decision.promoted and version.version == 2
    assert family.evaluated == f"{family.name}-champion", "the champion was evaluated on the challenger's data first"
    assert family.aliases() == {CHAMPION: 2}
    tags = family.tags(2)
    assert tags[DECISION] == "promoted" and tags["tokenmill.against"] == f"{family.name}/1"
    assert "classify/f1 0.8 → 0.95, p < 0.001" in tags[WHY]
    assert tags["tokenmill.evaluation"] == str(evaluated.evaluation)
    assert tags[WHY] in family.client.get_model_version(family.name, "2").description


@pytest.mark.parametrize(
    ("challenger", "criterion", "why"),
    [
        (0.7, {}, "Not better: classify/f1 0.8 → 0.7"),
        (0.8, {}, "Not better"),
        (0.81, {}, "No difference shown at 0.05"),
        (0.95, {"margin": 0.2}, "Not better by the margin of 0.2"),
        (0.7, {"guard": {"classify/accuracy": 0.05}}, "A guarded metric got worse: classify/accuracy 0.8 → 0.7"),
    ],
)
def test_loser_is_kept_back_with_the_reason(family, challenger, criterion, why):
    family.model(0.8)
    model = family.model(challenger) if challenger != 0.8 else family.model("0.80")
    family.right[model.ref.fingerprint] = challenger
    _, decision = family.gate(**criterion).decide(family.evaluate(model))
    assert not decision.promoted and family.aliases() == {CHAMPION: 1, CHALLENGER: 2}
    assert family.tags(2)[DECISION] == "kept back" and why in family.tags(2)[WHY]


def test_decision_is_made_once_unless_forced(family):
    family.model(0.8)
    evaluated = family.evaluate(family.model(0.7))
    family.gate().decide(evaluated)
    family.right[evaluated.model.ref.fingerprint] = 0.99
    before = family.tags(2)
    _, again = family.gate().decide(evaluated)
    assert not again.promoted and family.tags(2) == before
    _, by_force = family.gate(again=True, metric="classify/accuracy").decide(evaluated)
    assert not by_force.promoted and family.tags(2) != before


def test_changed_held_out_data_evaluates_the_champion_again(family):
    first = family.model(0.8)
    old = family.evaluate(first)
    grown = family.publish("examples", "held-out", {"n": "2"})
    evaluated = family.evaluate(family.model(0.95), grown)
    family.gate().decide(evaluated)
    evaluations = [e for e in family.home.store.list("evaluation") if e.manifest.inputs["model"] == first.ref]
    assert [e.manifest.inputs["examples"] for e in evaluations] == [family.examples.ref, grown.ref]
    found = evaluation_on(None, family.home, family.step(first, family.examples))
    assert found.ref == old.evaluation.ref, "what is there is not made again"


def test_unknown_metric_is_one_sentence(family):
    family.model(0.8)
    with pytest.raises(InputError, match=r"promote.classification: 'classify/f2' is no metric .* it has classify/f1"):
        family.gate(metric="classify/f2").decide(family.evaluate(family.model(0.9)))


def test_champion_without_weights_is_not_replaced(family):
    family.home.store.remove(family.model(0.8))
    _, decision = family.gate().decide(family.evaluate(family.model(0.95)))
    assert not decision.promoted and "cannot be judged on the same data" in family.tags(2)[WHY]


def test_rollback_and_promotion_by_hand_follow_the_history(family):
    name, home = family.name, family.home
    family.model(0.7)
    for right in (0.85, 0.99):
        family.gate().decide(family.evaluate(family.model(right)))
    assert family.aliases() == {CHAMPION: 3}
    assert roll_back(home, name, "writes nonsense").startswith(f"{name}/2 is the champion again")
    assert family.tags(3)[DECISION] == "rolled back" and "writes nonsense" in family.tags(3)[WHY]
    family.gate().decide(family.evaluate(find_model(f"{name}/3", home)))
    assert family.aliases() == {CHAMPION: 2}, "a run that comes by it again does not undo what a person did"
    roll_back(home, name, "that too")
    assert family.aliases() == {CHAMPION: 1}
    with pytest.raises(InputError, match="is the first champion of its name"):
        roll_back(home, name, "once more")
    promote_by_hand(home, f"{name}/3", "it was the data")
    assert family.aliases() == {CHAMPION: 3} and family.tags(3)[WHY] == "By hand: it was the data"
    roll_back(home, name, "back to the one before")
    assert family.aliases() == {CHAMPION: 1}
    family.client.set_registered_model_alias(name, CHAMPION, "2")  # in MLflow's own UI
    roll_back(home, name, "not that one")
    assert family.aliases() == {CHAMPION: 1}
    for wrong, sentence in ((f"{name}/1", "is the champion already"), (f"{name}/9", "no model"), (name, "no version")):
        with pytest.raises(InputError, match=sentence):
            promote_by_hand(home, wrong, "")
    with pytest.raises(InputError, match="no model unheard-of@champion"):
        roll_back(home, "unheard-of", "")


class Killed(BaseException):
    pass


class Dying:
    """A client that dies at its n-th write."""

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


@pytest.mark.parametrize(("right", "kills"), [(0.95, itertools.count()), (0.7, [1, 4])])
def test_killed_promotion_is_finished_by_the_next_run(home, client, right, kills):
    for writes in kills:
        family = Family(home, client)
        family.model(0.8)
        evaluated = family.evaluate(family.model(right))
        dying = Gate(family.perform, home, SimpleNamespace(client=Dying(client, writes)), family.gate().config)
        try:
            dying.decide(evaluated)
            died = False
        except Killed:
            died = True
        _, decision = family.gate().decide(evaluated)
        expected = {CHAMPION: 2} if right == 0.95 else {CHAMPION: 1, CHALLENGER: 2}
        assert decision.promoted == (right == 0.95) and family.aliases() == expected, writes
        assert family.tags(2)[DECISION] and "0.8 →" in family.tags(2)[WHY]
        if right == 0.95:
            assert find_version(home.mlflow_uri, family.name, CHAMPION).history == (1, 2)
        if not died:
            break
    assert not died or writes == 4


def test_killed_rollback_is_finished_by_the_next_one(home, client, monkeypatch):
    for writes in itertools.count():
        family = Family(home, client)
        for right in (0.7, 0.85):
            evaluated = family.evaluate(family.model(right))
        family.gate().decide(evaluated)
        with monkeypatch.context() as patch:
            patch.setattr(registry, "_client", lambda home: Dying(client, writes))  # noqa: B023
            try:
                roll_back(home, family.name, "bad")
                break
            except Killed:
                pass
        roll_back(home, family.name, "bad")
        assert family.aliases() == {CHAMPION: 1} and family.tags(2)[DECISION] == "rolled back"
    assert writes >= 4


# Which model a name means


def test_name_means_its_champion_or_the_newest(family, capsys):
    champion, newest = family.model(0.8), family.model(0.7)
    name, home = family.name, family.home
    assert find_model(name, home).ref == champion.ref and find_model(f"{name}@champion", home).ref == champion.ref
    assert capsys.readouterr().err == ""
    assert find_model(f"{name}/2", home).ref == find_model(f"{name}@challenger", home).ref == newest.ref
    assert find_model(f"model/{name}", home).ref == newest.ref
    assert find_model(f"{name}@{champion.ref.fingerprint[:8]}", home).ref == champion.ref
    assert find_model(newest.ref.fingerprint[:10], home).ref == newest.ref

    elsewhere = Home(home.path)
    elsewhere_uri = f"sqlite:///{home.path}/not-there.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", elsewhere_uri)
        assert find_model(name, elsewhere).ref == newest.ref
    assert "knows no champion" in capsys.readouterr().err
    with pytest.raises(InputError, match="no model"):
        find_model(f"{name}@best", home)


def test_registry_reads_alike_from_file_and_sqlalchemy(family):
    family.model(0.8)
    family.gate().decide(family.evaluate(family.model(0.95)))
    uri = family.home.mlflow_uri
    assert registered(uri.replace("sqlite:", "sqlite+pysqlite:"), family.name) == registered(uri, family.name)
    assert find_version(uri, family.name, CHAMPION).history == (1, 2)
    with pytest.raises(InputError, match="cannot be read"):
        registered("postgresql+psycopg2://user:secret@127.0.0.1:1/none")


def test_finding_a_champion_does_not_import_mlflow(family):
    import subprocess
    import sys

    model = family.model(0.8)
    code = (
        "import sys; from pathlib import Path; from flows.home import Home\n"
        "from flows.tracking.registry import find_model\n"
        f"print(find_model({family.name!r}, Home(Path({str(family.home.path)!r}))), 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{model} False" and done.stderr == ""


def test_reason_is_shown_without_markup(family):
    family.model(0.7)
    set_champion(family.client, family.name, 1, "see [/notes], it is [bold]")
    out = io.StringIO()
    Console(file=out, width=200).print(models_table(family.home, family.name))
    assert "see [/notes], it is [bold]" in out.getvalue()


def test_missing_model_is_named_as_given(family):
    for reference, named in (("x@", "x@"), ("x@mine", "x@mine"), ("x/7", "x/7")):
        with pytest.raises(InputError, match=f"has no model {named};"):
            find_model(reference, family.home)
