"""The run before: the newest run of a pipeline that ended well in this home. It is read without importing MLflow."""

from collections.abc import Mapping
from dataclasses import dataclass

from flows.home import Home
from flows.tracking.names import params_of
from pipelines.catalog.mlflow_server import is_server, open_server
from pipelines.catalog.runs import ask
from pipelines.changes import Change, changes, flat
from pipelines.config import RunConfig


@dataclass(frozen=True)
class RunBefore:
    """The run before another one.

    params: its config as MLflow stores it.
    """

    run_id: str
    name: str
    params: Mapping[str, str]

    def config(self, after: RunConfig) -> dict[str, str]:
        """Return its flat config, with whole values and keys where the config after it has the same."""
        whole = flat(after)
        keys = dict(zip(params_of(whole), whole, strict=True))
        stored = params_of(whole)
        return {
            keys.get(name, name): whole[keys[name]] if stored.get(name) == value else value
            for name, value in self.params.items()
            if name.partition(".")[0] in RunConfig.model_fields
        }

    def changes(self, after: RunConfig) -> dict[str, Change]:
        """Return the keys whose values differ from this run's."""
        return changes(self.config(after), flat(after))


def run_before(home: Home, pipeline: str) -> RunBefore | None:
    """Return the newest run of a pipeline that ended well in this home; None if there is none.

    Raises:
        InputError: MLflow's runs cannot be read.
    """
    if is_server(home.mlflow_uri):
        return _ask_server(home, pipeline)
    query = """
        SELECT r.run_uuid, r.name FROM runs r JOIN experiments e USING (experiment_id)
        JOIN tags kind ON kind.run_uuid = r.run_uuid AND kind.key = 'tokenmill.kind' AND kind.value = 'flow'
        JOIN params name ON name.run_uuid = r.run_uuid AND name.key = 'name' AND name.value = e.name
        JOIN tags home ON home.run_uuid = r.run_uuid AND home.key = 'tokenmill.home' AND home.value = ?
        WHERE e.name = ? AND r.lifecycle_stage = 'active' AND r.status = 'FINISHED'
        ORDER BY r.start_time DESC LIMIT 1"""
    for run_id, name in ask(home.mlflow_uri, query, home.label, pipeline):
        params = ask(home.mlflow_uri, "SELECT key, value FROM params WHERE run_uuid = ?", run_id)
        return RunBefore(run_id, name, dict(params))
    return None


def _ask_server(home: Home, pipeline: str) -> RunBefore | None:
    ours = f"tags.`tokenmill.kind` = 'flow' and tags.`tokenmill.home` = '{home.label}'"
    with open_server(home.mlflow_uri) as server:
        named = {"max_results": 1, "filter": f"name = '{pipeline}'"}
        for experiment in server.call("experiments/search", body=named).get("experiments", []):
            wanted = {
                "experiment_ids": [experiment["experiment_id"]],
                "filter": f"{ours} and attributes.status = 'FINISHED' and params.name = '{pipeline}'",
                "order_by": ["attributes.start_time DESC"],
                "max_results": 1,
            }
            for run in server.call("runs/search", body=wanted).get("runs", []):
                params = {param["key"]: param["value"] for param in run["data"].get("params", [])}
                return RunBefore(run["info"]["run_id"], run["info"]["run_name"], params)
    return None
