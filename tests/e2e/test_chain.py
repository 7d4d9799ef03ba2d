"""The whole chain on the command line: the datasets, MLflow runs and output of a first and a second run."""

import json
import re
import sqlite3
from pathlib import Path
from uuid import uuid4

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from pipelines.store.store import Store

STEPS = [
    "ingest",
    "examples",
    "examples",
    "tokenize",
    "sample",
    "pretrain",
    "evaluate-language",
    "lessons",
    "finetune-classifier",
    "finetune-classifier",
    "evaluate-classifier",
    "lessons",
    "finetune-assistant",
    "evaluate-assistant",
    "report",
]


@pytest.fixture(scope="session")
def client(finished):
    place, _ = finished
    return MlflowClient(f"sqlite:///{place.home}/mlruns/mlflow.db")


@pytest.fixture(scope="session")
def runs(client):
    experiment = client.get_experiment_by_name("tiny")
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])


def test_every_step_publishes_an_intact_dataset(finished):
    place, _ = finished
    store = Store(place.home / "data")
    published = store.list()
    assert sorted(d.manifest.step for d in published) == sorted(STEPS)
    assert [store.verify(d) for d in published] == [[]] * len(published)
    assert not list(place.home.glob("data/.staging/*")) and not list(place.home.glob("data/.scratch/*"))


def test_manifests_name_inputs_by_fingerprint_and_digest(finished):
    place, _ = finished
    store = Store(place.home / "data")
    for dataset in store.list():
        for ref in dataset.manifest.inputs.values():
            assert store.open(ref).manifest.digest == ref.digest


def test_closing_table_shows_steps_baselines_and_next_commands(finished):
    _, done = finished
    for step in STEPS:
        assert step in done.stdout
    for system in (
        "trigram",
        "unigram",
        "from random weights",
        "TF-IDF",
        "hand-made features",
        "majority",
        "before fine-tuning",
    ):
        assert system in done.stdout
    assert "tiny-sort/1 not promoted. 0 validation items are kept out" in done.stdout
    assert "`tokenmill promote tiny-sort/1` makes it the champion." in " ".join(done.stdout.split())
    assert "tokenmill chat --model tiny-answer" in done.stdout
    assert "data/model/tiny-" in done.stdout


def test_mlflow_has_a_finished_child_run_for_each_step(runs):
    parents = [run for run in runs if run.data.tags["tokenmill.kind"] == "flow"]
    children = [run for run in runs if run.data.tags["tokenmill.kind"] != "flow"]
    assert len(parents) == 1
    assert [run.data.tags["tokenmill.step"] for run in children] == STEPS
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all(run.data.tags["prefect.task_run_id"] for run in children)


def test_parent_run_has_the_config_and_every_result(runs):
    (parent,) = (run for run in runs if run.data.tags["tokenmill.kind"] == "flow")
    assert parent.data.tags["team"] == "b" and "A first try." in parent.data.tags["mlflow.note.content"]
    assert parent.data.params["pretrain.steps"] == "12"
    assert parent.data.params["finetune.sort.training.steps"] == "6"
    evaluations = [run for run in runs if run.data.tags["tokenmill.kind"] == "evaluation"]
    evaluated = {key: run for run in evaluations for key in run.data.metrics}
    for key, prefix in (("test/bits_per_byte", ""), ("classify/f1", "tiny-sort/"), ("instruct/chrf", "tiny-answer/")):
        assert parent.data.metrics[prefix + key] == evaluated[key].data.metrics[key]


def test_child_run_has_config_statistics_datasets_and_curves(finished, client, runs):
    place, _ = finished
    run = next(run for run in runs if run.data.tags.get("tokenmill.step") == "pretrain")
    dataset = Store(place.home / "data").open(run.data.tags["tokenmill.fingerprint"])
    assert run.data.params["steps"] == "12" and run.data.params["model.size"] == "pico"
    assert run.data.metrics["parameters"] == dataset.manifest.statistics["parameters"]
    assert dataset.manifest.built["mlflow_run_id"] == run.info.run_id
    digests = {entry.dataset.digest for entry in run.inputs.dataset_inputs}
    assert {dataset.ref.digest[:36], *(ref.digest[:36] for ref in dataset.manifest.inputs.values())} == digests
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert [metric.step for metric in losses] == list(range(12))
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val/loss")] == [6, 12]
    assert {file.path for file in client.list_artifacts(run.info.run_id, "samples")} == {
        "samples/step-000006.txt",
        "samples/step-000012.txt",
    }


def test_report_is_linked_from_mlflow_and_printed(finished, client, runs):
    place, done = finished
    report = Store(place.home / "data").open("report/tiny")
    (parent,) = (run for run in runs if run.data.tags["tokenmill.kind"] == "flow")
    assert "report.html" in {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert f"{report.path.relative_to(place.home)}/report.html" in done.stdout.replace("\n", "")
    note = parent.data.tags["mlflow.note.content"]
    assert f"runs/{parent.info.run_id}/artifacts/report.html" in note
    assert "(http://127.0.0.1:4200/runs/flow-run/" in note, "the run's own server has ended"
    page = report.file("report.html").read_text()
    assert "Throughput" in page and "after step 12" in page, "curves and texts come from MLflow"
    assert place.tokenmill("report", "tiny").stdout.strip() == str(report.file("report.html"))


def test_each_steps_run_has_plots_columns_and_counts(client, runs):
    plots = {}
    for run in runs:
        plots[run.data.tags.get("tokenmill.step")] = {
            file.path.removeprefix("plots/") for file in client.list_artifacts(run.info.run_id, "plots")
        }
    assert {"text-by-source.svg", "length-of-documents.svg"} <= plots["ingest"]
    assert {"frequency-against-rank.svg", "coverage-of-the-vocabulary.svg"} <= plots["tokenize"]
    assert {"loss.svg", "gradient-norm.svg", "token-embeddings-in-two-dimensions.svg"} <= plots["pretrain"]
    assert "confusion-matrix.svg" in plots["evaluate-classifier"]
    for run in runs:
        for entry in run.inputs.dataset_inputs:
            schema, profile = json.loads(entry.dataset.schema), json.loads(entry.dataset.profile)
            assert all(column["name"] and column["type"] for column in schema["mlflow_colspec"])
            assert schema["mlflow_colspec"] or entry.dataset.name.startswith("report/")
            assert profile["bytes"] > 0


def test_classifier_evaluation_has_plots_mistakes_and_intervals(finished, client, runs):
    place, _ = finished
    run = next(run for run in runs if run.data.tags.get("tokenmill.step") == "evaluate-classifier")
    plots = {file.path for file in client.list_artifacts(run.info.run_id, "plots")}
    assert plots >= {f"plots/{name}.svg" for name in ("roc", "precision-and-recall", "calibration", "confusion-matrix")}
    table = json.loads(Path(client.download_artifacts(run.info.run_id, "mistakes.json")).read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    dataset = Store(place.home / "data").open(run.data.tags["tokenmill.fingerprint"])
    statistics = dataset.manifest.statistics
    wrong = sum(n for name, n in statistics.items() if name in ("confusion/code_as_prose", "confusion/prose_as_code"))
    assert len(rows) == wrong and all(row["truth"] != row["predicted"] for row in rows)
    metrics = run.data.metrics
    assert metrics["classify-interval/f1_low"] <= metrics["classify/f1"] <= metrics["classify-interval/f1_high"]
    assert "scratch" in dataset.manifest.inputs and "classify-baseline/from_random_weights/f1" in metrics
    counted = place.tokenmill("sql", "select count(*) as n from mistakes", "--format", "csv").stdout
    assert counted.split() == ["n", str(wrong)]


def test_registered_models_have_an_alias_and_load_with_pyfunc(finished, client):
    place, _ = finished
    mlflow.set_tracking_uri(f"sqlite:///{place.home}/mlruns/mlflow.db")
    model = mlflow.pyfunc.load_model("models:/tiny-sort@champion")
    answer = model.predict([{"text": "x = f(1)"}, {"text": ""}])
    assert set(answer["label"]) <= {"code", "prose"} and answer["probability"].between(0.5, 1).all()
    text = mlflow.pyfunc.load_model("models:/tiny@champion").predict([{"text": "The"}], {"max_new_tokens": 3})
    assert isinstance(text["text"][0], str)
    version = client.get_model_version_by_alias("tiny-sort", "champion")
    store = Store(place.home / "data")
    model, base = store.open("model/tiny-sort"), store.open("model/tiny")
    assert version.tags["tokenmill.fingerprint"] == model.ref.fingerprint
    assert set(version.tags) <= {
        f"tokenmill.{key}" for key in ("fingerprint", "decision", "why", "decided_at", "evaluation", "against")
    }
    origin = client.get_logged_model(version.source.rpartition("/")[2]).tags
    assert origin["tokenmill.parents"] == str(base)
    assert origin["tokenmill.corpus"] == str(store.open("corpus/topics"))
    assert json.loads(origin["tokenmill.inputs"])["model"] == {"dataset": str(base), "digest": base.ref.digest}
    assert origin["tokenmill.tokenizer"] == model.manifest.files["tokenizer.json"].sha256
    assert {"tokenmill.digest", "tokenmill.step", "tokenmill.sources"} <= origin.keys()


def test_no_model_holds_a_pickle(finished):
    place, _ = finished
    suspicious = [p for p in place.home.rglob("*") if p.suffix in {".pkl", ".pickle", ".pt", ".pth", ".bin"}]
    assert suspicious == []


def test_prefect_records_the_flow_its_tasks_and_artifacts(finished):
    place, _ = finished
    (database,) = place.home.rglob("prefect.db")
    with sqlite3.connect(database) as connection:
        flow_run = connection.execute("select name, state_type, tags from flow_run").fetchall()[0]
        lines = [line for (line,) in connection.execute("select message from log")]
        tasks = connection.execute("select name, state_type, tags from task_run order by start_time").fetchall()
        keys = {key for (key,) in connection.execute("select key from artifact where key is not null")}
    assert flow_run[:2] == ("tiny", "COMPLETED")
    assert set(json.loads(flow_run[2])) == {"tokenmill", "run", "tiny", "team=b"}
    for part in (
        "ingest topics  40 documents",
        "pretrain tiny: step 6, val/loss",
        "tiny-sort/1 not promoted. 0 validation",
    ):
        assert len([line for line in lines if part in line]) == 1, part
    assert [name.split()[0] for name, _, _ in tasks] == [*STEPS, "promote", "promote", "promote"]
    assert {state for _, state, _ in tasks} == {"COMPLETED"}
    assert all("tokenmill" in json.loads(tags) for _, _, tags in tasks)
    assert {"run-tiny", "report-tiny", "pretrain-tiny", "pretrain-tiny-statistics"} <= keys


def test_run_after_a_crash_reuses_everything_and_links_its_builders(finished, client):
    place, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (place.home / "data").glob("[!.]*/**/*") if path.is_file()}
    (place.home / "data" / ".locks" / f"flow-{uuid4()}.lock").touch()  # as a killed run leaves it
    done = place.tokenmill("evaluate", str(place.config))
    assert done.stdout.count("reused") == len(STEPS)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    experiment = client.get_experiment_by_name("tiny")
    parent = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time desc"])[0]
    reused = {k: v for k, v in parent.data.tags.items() if k.startswith("tokenmill.reused.")}
    assert (
        reused["tokenmill.reused.model.tiny"]
        == Store(place.home / "data").open("model/tiny").manifest.built["mlflow_run_id"]
    )
    assert len(reused) == len(STEPS)


@pytest.mark.parametrize("flow", ["run", "evaluate"])
def test_repeated_run_has_nothing_to_do(finished, client, flow):
    place, done = finished
    experiment = client.get_experiment_by_name("tiny")
    before = len(client.search_runs([experiment.experiment_id]))
    again = place.tokenmill(flow, str(place.config), PREFECT_API_URL="http://127.0.0.1:9/api")  # needs no server
    assert "made before" in again.stderr and again.stdout.count("reused") == len(STEPS)
    tables = [out.partition("promote ")[0] for out in (done.stdout, again.stdout)]  # a person has promoted meanwhile
    words = [re.sub(r"reused|[\d.]+ s\b|─", "", table).split() for table in tables]
    assert words[0] == words[1] and again.stdout.count("promoted. By hand") == 3
    assert len(client.search_runs([experiment.experiment_id])) == before


def test_commands_query_models_and_data(finished):
    place, _ = finished
    line = place.tokenmill("classify", "x = f(1)", "--model", "tiny-sort").stdout
    assert re.fullmatch(r"(code|prose)\t[01]\.\d{4}\tx = f\(1\)\n", line)
    by_alias = place.tokenmill("classify", "x = f(1)", "--model", "tiny-sort@champion").stdout
    assert by_alias == line
    text = place.tokenmill("generate", "The", "--model", "tiny", "--max-new-tokens", "5").stdout
    assert text.startswith("The")
    assert place.tokenmill("generate", "The", "--model", "tiny", "--max-new-tokens", "5").stdout == text
    assert f"of {len(STEPS)} datasets are as they were published" in place.tokenmill("datasets", "verify").stdout
    assert place.tokenmill("datasets", "ls", "tokens").stdout.count("topics") == 1
    assert json.loads(place.tokenmill("datasets", "show", "model/tiny").stdout)["kind"] == "model"
    counted = place.tokenmill("sql", "select count(*) as n from documents", "--format", "csv").stdout
    assert counted.split() == [
        "n",
        str(Store(place.home / "data").open("corpus/topics").manifest.statistics["documents"]),
    ]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("pretrain.step=3", "unknown key 'pretrain.step'; did you mean 'steps'?"),
        ("ingest.sources=[{uri='nowhere/*.txt'}]", "nowhere"),
        pytest.param("ingest.sources=[{uri='empty.txt'}]", "no usable document", marks=pytest.mark.slow),
        pytest.param("ingest.keep=['n_words >']", "neither a preset", marks=pytest.mark.slow),
        pytest.param("sample.context=1000000", "context", marks=pytest.mark.slow),
        ("finetune.sort.examples.sources=[{uri='texts/labels.tsv', label='lable'}]", "lable"),
    ],
)
def test_bad_input_prints_one_sentence_and_publishes_nothing_incomplete(place, override, sentence):
    (place.home / "empty.txt").write_text("")
    done = place.tokenmill("run", str(place.config), "--set", override, "--set", "pretrain.steps=1", check=False)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("tokenmill: ") and sentence in last, done.stderr
    assert "Traceback" not in done.stderr
    store = Store(place.home / "data")
    assert all(store.verify(dataset) == [] for dataset in store.list())
    assert not list(place.home.glob("data/.staging/*"))
