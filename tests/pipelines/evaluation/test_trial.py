"""Trials: models and their simplest baselines on the items that chose nothing."""

import pyarrow.parquet as pq
import pytest

from pipelines.corpus.kept_out import kept_out
from pipelines.evaluation.trial import TRY, TrialConfig, count_items
from pipelines.store.step import StepContext


@pytest.fixture
def tried(tmp_path):
    """tried(inputs, baseline=False) returns the statistics and the predictions of a trial."""

    def run(inputs, **config):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        out.mkdir()
        statistics = TRY.run(inputs, TrialConfig(**config), out, StepContext(tmp_path))
        return statistics, pq.read_table(out / "predictions.parquet").to_pylist()

    return run


@pytest.mark.usefixtures("few_decide")
def test_language_model_is_tried_on_the_documents_that_are_kept_out(published, tried):
    inputs = {"model": published.model, "tokens": published.tokens}
    statistics, predictions = tried(inputs)
    table = pq.read_table(published.corpus.files("documents/*")[0], filters=[("split", "==", "validation")])
    rows = {row["doc_id"]: row for row in table.to_pylist()}
    assert {row["item"] for row in predictions} == {each for each in rows if kept_out([each])[0]}
    assert statistics["items"] == len(predictions) == count_items(published.tokens) < len(rows)
    baseline, same = tried(inputs, baseline=True)
    assert [row["item"] for row in same] == [row["item"] for row in predictions]
    assert statistics["trial/bits_per_byte"] != baseline["trial/bits_per_byte"] > 0
    assert len(tried(inputs, max_bytes=1)[1]) == 1
