"""MLflow's runs and registry over its REST API (https://mlflow.org/docs/latest/rest-api.html).

The user is the one that `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, or `MLFLOW_TRACKING_TOKEN`, name.
httpx takes half a second to import, so it is imported when a server is asked.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import InputError

if TYPE_CHECKING:
    import httpx

Row = tuple[Any, ...]


def is_server(tracking_uri: str) -> bool:
    """Return whether a tracking URI names a server rather than a database."""
    return tracking_uri.startswith(("http://", "https://"))


@contextmanager
def open_server(address: str) -> Iterator[MlflowServer]:
    """Yield the server at an address, with the credentials that the environment names."""
    import httpx

    user, token = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_TOKEN")
    auth = httpx.BasicAuth(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None
    headers = {"Authorization": f"Bearer {token}"} if token and not user else {}
    with httpx.Client(auth=auth, headers=headers, timeout=30, follow_redirects=True) as client:
        yield MlflowServer(address.rstrip("/"), client)


class MlflowServer:
    """An MLflow tracking server. Every method raises InputError if it does not answer, or not with MLflow's answer."""

    def __init__(self, address: str, client: httpx.Client) -> None:
        self.address, self._client = address, client

    def call(self, path: str, query: Mapping[str, Any] | None = None, body: Mapping[str, Any] | None = None) -> Any:
        """Return the answer to one request, which is a POST if it has a body."""
        import httpx

        try:
            method, url = "GET" if body is None else "POST", f"{self.address}/api/2.0/mlflow/{path}"
            return self._client.request(method, url, params=query, json=body).raise_for_status().json()
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            raise InputError(f"The MLflow server at {self.address} refused {path} (status {status}).") from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise InputError(f"The MLflow server at {self.address} does not answer ({error}); is it up?") from None

    def artifact(self, run_id: str, path: str) -> str:
        """Return a text among a run's artifacts."""
        import httpx

        try:
            answer = self._client.get(f"{self.address}/get-artifact", params={"run_uuid": run_id, "path": path})
            return answer.raise_for_status().content.decode("utf-8", "replace")
        except httpx.HTTPError as error:
            raise InputError(f"The MLflow server at {self.address} does not give {path} ({error}).") from None

    def pages(self, path: str, key: str, body: Mapping[str, Any] | None = None, **query: Any) -> Iterator[Any]:
        """Yield all items of a list that comes in pages."""
        more: dict[str, str] = {}
        while True:
            page = self.call(path, query | more) if body is None else self.call(path, body={**body, **more})
            yield from page.get(key, [])
            if not page.get("next_page_token"):
                return
            more = {"page_token": page["next_page_token"]}

    def runs(self, experiment: str | None = None) -> Iterator[tuple[str, Any]]:
        """Yield (name of its experiment, run) of all experiments or of one, oldest first."""
        experiments = {
            each["experiment_id"]: each["name"]
            for each in self.pages("experiments/search", "experiments", {"max_results": 1000})
            if experiment in (None, each["name"])
        }
        body = {"experiment_ids": [*experiments], "max_results": 1000, "order_by": ["attributes.start_time ASC"]}
        for run in self.pages("runs/search", "runs", body) if experiments else ():
            yield experiments[run["info"]["experiment_id"]], run

    def rows(self, table: str) -> list[Row]:
        """Return the rows of a table of `runs.TABLES`."""
        return {"runs": self._run_rows, "params": self._param_rows, "metrics": self._metric_rows}[table]()

    def curves(self, run_id: str) -> dict[str, list[tuple[int, float]]]:
        """Return the (step, value) points of every metric of one run, in order."""
        found = {}
        for last in self.call("runs/get", {"run_id": run_id})["run"]["data"].get("metrics", []):
            points = [(int(p.get("step", 0)), _number(p.get("value"))) for p in self._history(run_id, last["key"])]
            found[last["key"]] = sorted((step, value) for step, value in points if value is not None)
        return found

    def texts(self, run_id: str, folder: str) -> dict[str, str]:
        """Return the text artifacts in a folder of one run, by name."""
        files = self.call("artifacts/list", {"run_id": run_id, "path": folder}).get("files", [])
        return {Path(each["path"]).name: self.artifact(run_id, each["path"]) for each in files if not each["is_dir"]}

    def _history(self, run_id: str, metric: str) -> list[Any]:
        return list(self.pages("metrics/get-history", "metrics", run_id=run_id, metric_key=metric, max_results=25000))

    def _run_rows(self) -> list[Row]:
        rows = []
        for experiment, run in self.runs():
            info, tags = run["info"], tags_of(run)
            names = info.get("run_name"), experiment, info["run_id"], tags.get("mlflow.parentRunId")
            state = _whole(info.get("end_time")), _whole(info.get("start_time")), info["status"]
            rows.append((*names, json.dumps(tags), info.get("artifact_uri"), *state))
        return rows

    def _param_rows(self) -> list[Row]:
        return [
            (run["info"].get("run_name"), param["key"], param["value"], run["info"]["run_id"])
            for _, run in self.runs()
            for param in run["data"].get("params", [])
        ]

    def _metric_rows(self) -> list[Row]:
        metrics = [(run["info"], last) for _, run in self.runs() for last in run["data"].get("metrics", [])]
        with ThreadPoolExecutor(8) as pool:  # a request for each curve
            curves = pool.map(lambda each: self._history(each[0]["run_id"], each[1]["key"]), metrics)
            return [
                (
                    info.get("run_name"),
                    last["key"],
                    int(point.get("step", 0)),
                    _number(point.get("value")),
                    all(point.get(name) == last.get(name) for name in ("step", "value", "timestamp")),
                    int(point["timestamp"]),
                    info["run_id"],
                )
                for (info, last), curve in zip(metrics, curves, strict=True)
                for point in sorted(curve, key=lambda point: int(point.get("step", 0)))
            ]


def tags_of(run: Any) -> dict[str, str]:
    """Return a run's tags."""
    return {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}


def _whole(value: Any) -> int | None:
    """Return a long integer, which some versions of the API write as a string."""
    return None if value is None else int(value)


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(float(value)) else float(value)
