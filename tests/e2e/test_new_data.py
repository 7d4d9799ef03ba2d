"""`tokenmill evaluate --data`: a published model on new data, through Prefect and MLflow, without a training."""

import shutil
from dataclasses import replace

import pytest


@pytest.mark.slow
def test_new_data_is_scored_tracked_and_reused_without_a_promotion(finished, tmp_path):
    before, _ = finished
    place = replace(before, home=tmp_path / "home")
    shutil.copytree(before.home, place.home)
    models = place.tokenmill("models").stdout
    (place.home / "new.csv").write_text(
        "kind,body\n" + "".join(f"code,y = g({i})\nprose,plain words {i}\n" for i in range(9))
    )
    done = place.tokenmill("evaluate", "--data", "new.csv", "--label", "kind", "--model", "tiny-sort")
    assert "TF-IDF" in done.stdout and "balanced_accuracy" in done.stdout
    assert place.tokenmill("models").stdout == models, "nothing is trained, promoted, or judged by it"
    evaluation = place.store.open("evaluation/tiny-sort-on-new")
    assert evaluation.manifest.statistics["scored_examples"] == 18
    rows = place.mlflow(
        "select e.name, r.status from runs r join experiments e using (experiment_id) join tags t using (run_uuid) "
        "where t.key = 'tokenmill.fingerprint' and t.value = ?",
        evaluation.ref.fingerprint,
    )
    assert rows == [("tiny", "FINISHED")], "in the experiment of the model's run"
    counted = place.tokenmill(
        "sql", "select count(*) as n from predictions where dataset = 'tiny-sort-on-new'", "--format", "csv"
    )
    assert counted.stdout.split() == ["n", "18"]
    assert "new.csv@" in place.tokenmill("trace", "evaluation/tiny-sort-on-new").stdout
    again = place.tokenmill("evaluate", "--data", "new.csv", "--label", "kind", "--model", "tiny-sort")
    assert "reused" in again.stdout and "Starting" not in again.stderr
