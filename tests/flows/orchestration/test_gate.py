"""The gate: each decision about a champion is made once, with a reason, in spite of kills.

MLflow's registry is real; models and evaluations are small stand-ins.
"""

import itertools
from types import SimpleNamespace

import pytest

from flows.orchestration import gate
from flows.orchestration.gate import Gate, evaluation_on
from flows.tracking.registry import WHY
from pipelines.catalog.registry import CHALLENGER, CHAMPION, DECISION, find_version
from pipelines.errors import InputError
from pipelines.evaluation.promotion import PromoteConfig
from pipelines.evaluation.trial import TRY, TrialConfig


def test_better_model_is_promoted_with_its_reason(family):
    family.model(0.8)
    evaluated = family.evaluate(family.model(0.95))
    version, decision = family.gate().decide(evaluated)
    assert decision.promoted and version.version == 2
    assert family.evaluated == f"{family.name}-champion", "the champion was evaluated on the challenger's data first"
    assert family.aliases() == {CHAMPION: 2}
    tags = family.tags(2)
    assert tags[DECISION] == "promoted" and tags["tokenmill.against"] == f"{family.name}/1"
    assert "trial/f1 0.8 → 0.95, p < 0.001" in tags[WHY]
    assert tags["tokenmill.evaluation"] == str(evaluated.evaluation)
    assert tags[WHY] in family.client.get_model_version(family.name, "2").description


@pytest.mark.parametrize(
    ("challenger", "criterion", "why"),
    [
        (0.7, {}, "Not better: trial/f1 0.8 → 0.7"),
        (0.8, {}, "Not better"),
        (0.81, {}, "No difference shown at 0.05"),
        (0.95, {"margin": 0.2}, "Not better by the margin of 0.2"),
        (0.7, {"guard": {"trial/accuracy": 0.05}}, "A guarded metric got worse: trial/accuracy 0.8 → 0.7"),
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
    _, by_force = family.gate(again=True, metric="trial/accuracy").decide(evaluated)
    assert not by_force.promoted and family.tags(2) != before


def test_changed_held_out_data_tries_the_champion_again(family):
    first = family.model(0.8)
    family.gate().decide(family.evaluate(family.model(0.7)))
    grown = family.publish("examples", "held-out", {"n": "2"})
    family.gate().decide(family.evaluate(family.model(0.95), grown))
    trials = [each for each in family.home.store.list("trial") if each.manifest.inputs["model"] == first.ref]
    assert [each.manifest.inputs["examples"] for each in trials] == [family.examples.ref, grown.ref]
    step = TRY.using(family.name, TrialConfig(), {"model": first, "examples": family.examples})
    assert evaluation_on(None, family.home, step).ref == trials[0].ref, "a published trial is reused"
    assert family.tags(3)["tokenmill.challenge"] == "1", "these items are new"


def test_later_challenges_need_a_smaller_p(family):
    family.model(0.8)
    whys = []
    for right in (0.7, 0.71, 0.83):  # the last would be better at 0.05
        evaluated = family.evaluate(family.model(right))
        family.gate().decide(evaluated)
        family.gate(again=True).decide(evaluated)  # the same model again is the same challenge
        whys.append(family.tags(len(family.right))[WHY])
    assert [family.tags(number)["tokenmill.challenge"] for number in (2, 3, 4)] == ["1", "2", "3"]
    assert "No difference shown at 0.00833" in whys[2] and "challenge 3 on these items: 0.05 becomes 0.00833" in whys[2]
    assert family.aliases()[CHAMPION] == 1


def test_test_split_changes_no_decision(family):
    decisions = []
    for on_test in (0.0, 1.0):
        family.right.clear()
        for number, right in enumerate((0.8, 0.95)):
            model = family.model(f"{right:.{number + 2 + int(on_test)}f}", champion=not number)
            family.right[model.ref.fingerprint] = right
            family.on_test[model.ref.fingerprint] = on_test if number else 1 - on_test
        decisions.append(family.gate().decide(family.evaluate(model))[1])
    assert decisions[0].promoted and decisions[0].differences == decisions[1].differences
    assert not any("classify/" in each.metric for each in decisions[0].differences)


def test_first_model_becomes_champion_if_it_beats_the_baseline(family):
    evaluated = family.evaluate(family.model(0.0, champion=False))
    version, decision = family.gate().decide(evaluated)
    assert not decision.promoted and family.tags(1)[DECISION] == "not promoted" and CHAMPION not in family.aliases()
    assert (
        "The first of its name. Compared with the most frequent label: Not better: trial/f1 0 → 0"
        in family.tags(1)[WHY]
    )
    assert f"`tokenmill promote {version}` makes it the champion." in family.tags(1)[WHY]
    assert not find_version(family.home.mlflow_uri, family.name, version=1).is_rejected, "people get it, with a word"
    _, decision = family.gate().decide(family.evaluate(family.model(0.9, champion=False)))
    assert decision.promoted and family.aliases()[CHAMPION] == 2
    assert "Compared with the most frequent label: Better: trial/f1 0 → 0.9" in family.tags(2)[WHY]


def test_too_few_items_decide_nothing(family, monkeypatch):
    monkeypatch.setattr(gate, "count_items", lambda held_out: 5)
    family.model(0.8)
    _, decision = family.gate().decide(family.evaluate(family.model(0.95)))
    assert not decision.promoted and family.tags(2)[DECISION] == "not promoted"
    assert "5 validation items are kept out to decide on, and a decision takes 10" in family.tags(2)[WHY]


def test_models_of_the_version_before_are_not_favoured(family, monkeypatch):
    old = family.model(0.8)
    monkeypatch.setattr(gate, "chose_on_all", lambda model: model.ref == old.ref)
    family.gate().decide(family.evaluate(family.model(0.95)))
    assert f"{family.name}/1 has an advantage" in family.tags(2)[WHY]
    monkeypatch.setattr(gate, "chose_on_all", lambda model: True)
    _, decision = family.gate().decide(family.evaluate(family.model(0.99)))
    assert not decision.promoted and "It was trained before 0.5.0" in family.tags(3)[WHY]


def test_disabled_gate_decides_nothing_and_says_so(family):
    evaluated = family.evaluate(family.model(0.95, champion=False))
    disabled = family.gate()
    disabled.config.promote = PromoteConfig(enabled=False)
    (outcome,) = disabled.pass_all([evaluated])
    assert "promote.enabled is false" in outcome.summary and "tokenmill promote" in outcome.summary
    assert DECISION not in family.tags(1) and not family.aliases().get(CHAMPION)


def test_metric_of_an_unknown_label_is_one_sentence(family):
    family.model(0.8)
    with pytest.raises(InputError, match=r"promote.classification: 'trial/f1/x' is no metric .* it has trial/f1"):
        family.gate(metric="trial/f1/x").decide(family.evaluate(family.model(0.9)))


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
