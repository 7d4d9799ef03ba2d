"""Secrets stay in the environment: no config, manifest, log, MLflow or Prefect database holds one."""

import json
import re
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from pipelines.config import load_config
from pipelines.errors import InputError
from pipelines.store.store import Store

SECRET = "planted-d41d8cd98f00b204"


@pytest.mark.parametrize(
    "uri",
    [
        f"https://reader:{SECRET}@host.example/x.txt",
        f"https://{SECRET}@host.example/x.txt",
        f"simplecache::https://reader:{SECRET}@host.example/x.txt",
        f"sftp://reader:{SECRET}@host.example/x.txt",
        f"https://host.example/x.txt?token={SECRET}",
        f"https://host.example/x.txt?page=2&api_key={SECRET}",
        f"https://host.example/x.txt?X-Amz-Signature={SECRET}",
        f"https://account.blob.core.windows.net/x.txt?sv=2024&sig={SECRET}",
        f"https://host.example/x.txt#access_token={SECRET}",
        f"https://host.example/x.txt#{SECRET}",
        f"memory://reader:{SECRET}@bucket/x.txt",
    ],
)
@pytest.mark.parametrize("table", ["ingest", "finetune.sort.examples"])
def test_address_with_a_secret_is_rejected_without_repeating_it(place, uri, table):
    column = "" if table == "ingest" else ", label = 'label'"
    with pytest.raises(InputError, match=r"sources.*password or a token.*environment.*FSSPEC_HTTPS") as caught:
        load_config(place.config, [f"{table}.sources=[{{uri='{uri}'{column}}}]"])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "https://host.example/x.txt?page=2&monkey=tokens",
        "s3://bucket/2024/*.jsonl.gz",
        "abfs://container@account.dfs.core.windows.net/x",
        "hf://datasets/owner/name@main/x.parquet",
        "texts/what?.txt",
    ],
)
def test_address_without_a_secret_is_accepted(place, uri):
    source = load_config(place.config, [f"ingest.sources=[{{uri='{uri}'}}]"]).ingest.sources[0]
    assert source.uri == (uri if "://" in uri else str(Path.cwd() / uri))


def test_secret_of_a_run_is_stored_nowhere(place, serve):
    received = []

    class Guarded(BaseHTTPRequestHandler):
        """Sends its text only to a client that knows the secret."""

        def do_GET(self):
            received.append(self.headers["Authorization"])
            if received[-1] != f"Bearer {SECRET}":
                return self.send_error(401)
            body = b"In the beginning was the word, and the word was behind a password.\n" * 9
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

    source = f"ingest.sources=[{{uri='http://127.0.0.1:{serve(Guarded).server_port}/x.txt'}}]"
    planted = {
        "FSSPEC_HTTP": json.dumps({"client_kwargs": {"headers": {"Authorization": f"Bearer {SECRET}"}}}),
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "MLFLOW_TRACKING_PASSWORD": SECRET,
    }
    done = place.tokenmill("ingest", str(place.config), "--set", source, **planted)
    rejected = place.tokenmill("ingest", str(place.config), "--set", source, check=False)
    assert f"Bearer {SECRET}" in received, "the secret was used"
    assert Store(place.home / "data").open("corpus/topics").manifest.statistics["documents"] == 1
    assert rejected.returncode == 2 and "credentials" in rejected.stderr
    bucket = place.tokenmill("datasets", "ls", check=False, TOKENMILL_DATA=f"ftp://u:{SECRET}@127.0.0.1:9/p")
    assert bucket.returncode == 2 and "TOKENMILL_DATA carries a password" in bucket.stderr
    assert SECRET not in "".join(each.stdout + each.stderr for each in (done, rejected, bucket))
    files = [path for path in place.home.rglob("*") if path.is_file()]
    assert {"prefect.db", "mlflow.db", "manifest.json", "prefect-temporary.log"} <= {path.name for path in files}
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_secret_of_a_server_that_fails_is_stored_nowhere(place):
    away = {
        "web": {"MLFLOW_TRACKING_URI": f"http://u:{SECRET}@127.0.0.1:9"},
        "unknown": {"MLFLOW_TRACKING_URI": f"what://u:{SECRET}@127.0.0.1:9"},
        "database": {"MLFLOW_TRACKING_URI": f"postgresql://u:x/{SECRET}@127.0.0.1:port/x"},
        "prefect": {"PREFECT_API_URL": f"http://u:{SECRET}@127.0.0.1:9/api"},
        "prefect's database": {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"what://u:{SECRET}@127.0.0.1:9/x"},
        "bucket": {"TOKENMILL_DATA": f"memory://u:{SECRET}@bucket/p"},
        "endpoint": {"TOKENMILL_DATA": "s3://bucket/p", "AWS_ENDPOINT_URL": f"http://u:{SECRET}@127.0.0.1:9"},
    }
    for what, variables in away.items():
        patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": SECRET}
        short = ["models" if "MLFLOW_TRACKING_URI" in variables else "status"]
        for command in (["--debug", "ingest", str(place.config)], short):
            done = place.tokenmill(*command, check=False, **variables, **patience)
            assert done.returncode or command[0] != "--debug", what
            assert SECRET not in done.stdout + done.stderr and SECRET[7:] not in done.stderr, (what, command)
    files = [path for path in place.home.rglob("*") if path.is_file()]
    assert "prefect.db" in {path.name for path in files}
    assert [path for path in files if re.search(f"{SECRET}|{SECRET[7:]}".encode(), path.read_bytes())] == []
