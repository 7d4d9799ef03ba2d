"""The gate: each decision about a champion is made once, with a reason, in spite of kills.

MLflow's registry is real; models and evaluations are small stand-ins.
"""

import itertools
from types import SimpleNamespace

import pytest

from flows.orchestration.gate import Gate, evaluation_on
from flows.tracking.registry import WHY
from pipelines.catalog.registry import CHALLENGER, CHAMPION, DECISION, find_version
from pipelines.errors import InputError


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


@pytest.mark.parametrize(("right", "kills"), [(0.95, itertools.count()), (0.7, [1, 4])])
def test_killed_promotion_is_finished_by_the_next_run(make_family, dying, right, kills):
    for writes in kills:
        family = make_family()
        family.model(0.8)
        evaluated = family.evaluate(family.model(right))
        tracker = SimpleNamespace(client=dying(family.client, writes))
        try:
            Gate(family.perform, family.home, tracker, family.gate().config).decide(evaluated)
            died = False
        except dying.Killed:
            died = True
        _, decision = family.gate().decide(evaluated)
        expected = {CHAMPION: 2} if right == 0.95 else {CHAMPION: 1, CHALLENGER: 2}
        assert decision.promoted == (right == 0.95) and family.aliases() == expected, writes
        assert family.tags(2)[DECISION] and "0.8 →" in family.tags(2)[WHY]
        if right == 0.95:
            assert find_version(family.home.mlflow_uri, family.name, CHAMPION).history == (1, 2)
        if not died:
            break
    assert not died or writes == 4
