"""Two machines of a team share Prefect and MLflow on PostgreSQL, and data and artifacts in a bucket."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres_server import PASSWORD, connection

STEPS = ("ingest", "tokenize", "sample", "pretrain", "evaluate-language", "report", "promote")


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    """Start an S3 server with one bucket, and yield the variables that lead to it."""
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    server = server_module.ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    variables = {
        "AWS_ENDPOINT_URL": url,
        "MLFLOW_S3_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "mill",
        "AWS_SECRET_ACCESS_KEY": PASSWORD,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    import boto3

    keys = {"aws_access_key_id": "mill", "aws_secret_access_key": PASSWORD, "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=url, **keys).create_bucket(Bucket="mill")
    yield variables
    server.stop()


@pytest.mark.slow
def test_two_machines_share_a_bucket_and_postgresql(
    place: Any, postgres: str, bucket: dict[str, str], tmp_path: Path, free_port: Callable[[], int]
) -> None:
    settings = bucket | {
        "TOKENMILL_DATA": "s3://mill/data",
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": "s3://mill/mlflow",
        "MLFLOW_TRACKING_URI": f"postgresql://{postgres}/mlflow",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{postgres}/prefect",
        "TOKENMILL_PREFECT_PORT": str(free_port()),
        "TOKENMILL_MLFLOW_PORT": str(free_port()),
    }
    language = place.config.read_text().partition("[finetune")[0]  # without fine-tuning, to save time
    place.config.write_text(language)
    run = ("run", str(place.config), "--set", "pretrain.steps=2")
    started = place.tokenmill("up", **settings)
    try:
        assert started.stdout.count("running") == 2
        first = place.tokenmill(*run, **settings)
        with contextlib.closing(connection(f"postgresql://{postgres}/prefect")) as database:
            cursor = database.cursor()
            cursor.execute("SELECT name, state_type FROM task_run ORDER BY start_time")
            assert cursor.fetchall() == [(f"{step} {name}", "COMPLETED") for step, name in tasks()]
        other = {"TOKENMILL_HOME": str(tmp_path / "other")}
        Path(other["TOKENMILL_HOME"]).mkdir()
        lines = place.tokenmill("env", **settings).stdout.splitlines()
        servers = dict(line.removeprefix("export ").split("=", 1) for line in lines)
        prefect = {name: value for name, value in servers.items() if name.startswith("PREFECT_")}
        second = place.tokenmill(*run, **settings, **other, **prefect)
        promote_and_roll_back(place, postgres, settings | other | servers)
    finally:
        ended = place.tokenmill("down", **settings)
    assert "prefect" in ended.stdout and "mlflow" in ended.stdout
    made = len(STEPS) - 1  # the gate publishes no dataset
    assert first.stdout.count("reused") == 0 and second.stdout.count("reused") == made

    with contextlib.closing(connection(f"postgresql://{postgres}/mlflow")) as database:
        cursor = database.cursor()
        cursor.execute("SELECT status, artifact_uri FROM runs JOIN tags USING (run_uuid) WHERE key = 'tokenmill.step'")
        found = cursor.fetchall()
        assert len(found) == made + 3 and {status for status, _ in found} == {"FINISHED"}
        assert all(uri.startswith("s3://mill/mlflow/tiny/") for _, uri in found)
    query = "select count(*), sum(latest::int) from metrics where metric = 'train/loss'"
    asked = place.tokenmill("sql", query, "--format", "csv", **settings)
    assert asked.stdout.split()[-1] == "22,2"
    tags = "select count(*) from runs where json_extract_string(tags, '$.\"tokenmill.step\"') = 'pretrain'"
    assert place.tokenmill("sql", tags, "--format", "csv", **settings).stdout.split()[-1] == "2"

    # No file of either machine and no row of the databases holds a secret.
    for home in (place.home, tmp_path / "other"):
        assert not [path for path in home.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    for name in ("prefect", "mlflow"):
        with contextlib.closing(connection(f"postgresql://{postgres}/{name}")) as database:
            assert PASSWORD not in all_rows(database)


def promote_and_roll_back(place: Any, postgres: str, people: dict[str, str]) -> None:
    """Check the gate, rollback and promotion over MLflow's REST API. PostgreSQL shows the champion after each."""

    def champion() -> list[Any]:
        with contextlib.closing(connection(f"postgresql://{postgres}/mlflow")) as database:
            cursor = database.cursor()
            cursor.execute("SELECT name, version FROM registered_model_aliases WHERE alias = 'champion'")
            return list(cursor.fetchall())

    longer = place.tokenmill("run", str(place.config), "--set", "pretrain.steps=20", **people)
    assert "tiny/2 not promoted. " in " ".join(longer.stdout.split()) and champion() == [], "there are too few items"
    place.tokenmill("promote", "tiny/1", **people)
    assert "tiny/2 is the champion now" in place.tokenmill("promote", "tiny/2", "--reason", "no", **people).stdout
    assert champion() == [("tiny", 2)]
    assert "tiny/1 is the champion again" in place.tokenmill("rollback", "tiny", **people).stdout
    assert champion() == [("tiny", 1)]
    assert "is the first champion" in place.tokenmill("rollback", "tiny", check=False, **people).stderr
    listed = place.tokenmill("models", "tiny", **people).stdout
    assert "By hand" in listed and "champion" in next(line for line in listed.splitlines() if "tiny/1" in line)
    written = [
        place.tokenmill("generate", "The", "--model", model, "--max-new-tokens", "8", **people).stdout
        for model in ("tiny", "tiny@champion", "tiny/2", "tiny/1")
    ]
    assert written[0] == written[1] == written[3] != written[2]


def tasks() -> list[tuple[str, str]]:
    return [(step, "topics" if step in ("ingest", "tokenize", "sample") else "tiny") for step in STEPS]


def all_rows(database: Any) -> str:
    """Return the rows of all tables as text."""
    cursor = database.cursor()
    cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    texts = []
    for (table,) in cursor.fetchall():
        cursor.execute(f'SELECT * FROM "{table}"')
        texts.append(str(cursor.fetchall()))
    return "\n".join(texts)
