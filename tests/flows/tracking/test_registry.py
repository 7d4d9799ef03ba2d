"""MLflow's model registry: promotions by hand, rollbacks in spite of kills, and which model a name means."""

import itertools

import pytest

from flows.home import Home
from flows.tracking import registry
from flows.tracking.registry import WHY, find_model, promote_by_hand, roll_back
from pipelines.catalog.registry import CHAMPION, DECISION, find_version, registered
from pipelines.errors import InputError


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


def test_killed_rollback_is_finished_by_the_next_one(make_family, dying, monkeypatch):
    for writes in itertools.count():
        family = make_family()
        for right in (0.7, 0.85):
            evaluated = family.evaluate(family.model(right))
        family.gate().decide(evaluated)
        with monkeypatch.context() as patch:
            patch.setattr(registry, "_client", lambda home: dying(family.client, writes))  # noqa: B023
            try:
                roll_back(family.home, family.name, "bad")
                break
            except dying.Killed:
                pass
        roll_back(family.home, family.name, "bad")
        assert family.aliases() == {CHAMPION: 1} and family.tags(2)[DECISION] == "rolled back"
    assert writes >= 4


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
    assert "has no champion" in capsys.readouterr().err
    with pytest.raises(InputError, match="no model"):
        find_model(f"{name}@best", home)


def test_missing_model_is_named_as_given(family):
    for reference, named in (("x@", "x@"), ("x@mine", "x@mine"), ("x/7", "x/7")):
        with pytest.raises(InputError, match=f"has no model {named};"):
            find_model(reference, family.home)


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


def test_registry_reads_alike_from_file_and_sqlalchemy(family):
    family.model(0.8)
    family.gate().decide(family.evaluate(family.model(0.95)))
    uri = family.home.mlflow_uri
    assert registered(uri.replace("sqlite:", "sqlite+pysqlite:"), family.name) == registered(uri, family.name)
    assert find_version(uri, family.name, CHAMPION).history == (1, 2)
