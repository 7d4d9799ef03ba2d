"""The files and statistics of an evaluation."""

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.evaluation.results import statistics, write_evaluation
from pipelines.evaluation.significance import Interval

METRICS = {"model": {"f1": Interval(0.5, 0.25, 0.75), "ratio": 2.0}, "TF-IDF fit": {"f1": Interval(0.25, 0.0, 0.5)}}


def test_statistics_name_stage_baseline_and_interval():
    assert statistics("classify", METRICS) == {
        "classify/f1": 0.5,
        "classify-interval/f1_low": 0.25,
        "classify-interval/f1_high": 0.75,
        "classify/ratio": 2.0,
        "classify-baseline/tf_idf_fit/f1": 0.25,
    }


def test_tables_are_stored_by_name(tmp_path):
    write_evaluation(tmp_path, METRICS, pa.table({"item": ["a"]}), extra=pa.table({"n": [1]}))
    rows = pq.read_table(tmp_path / "metrics.parquet").to_pylist()
    assert rows[0] == {"system": "model", "metric": "f1", "value": 0.5, "low": 0.25, "high": 0.75}
    assert rows[1] == {"system": "model", "metric": "ratio", "value": 2.0, "low": None, "high": None}
    assert {file.name for file in tmp_path.iterdir()} == {"metrics.parquet", "predictions.parquet", "extra.parquet"}
