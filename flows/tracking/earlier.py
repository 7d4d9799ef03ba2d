"""The run before, which is the newest run of a pipeline that ended well in this home, and what differs from it.

It is read without importing MLflow.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from flows.home import Home
from flows.label import Label, run_title, what_differs
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


@dataclass(frozen=True)
class Distinction:
    """What tells a run from others.

    title: the run's name. what: what differs, in a few words; empty if nothing does. before: the run before; None if
    this is the first one. changed: the keys whose values differ from that run's.
    """

    title: str = ""
    what: str = ""
    before: RunBefore | None = None
    changed: Mapping[str, Change] = field(default_factory=dict)


def distinguish(home: Home, config: RunConfig, label: Label) -> Distinction:
    """Compare a run that begins with the run before.

    Raises:
        InputError: MLflow's runs cannot be read.
    """
    before = run_before(home, config.name)
    earlier = before.config(config) if before else None
    changed = changes(earlier, flat(config)) if earlier is not None else {}
    return Distinction(run_title(config, label, earlier), what_differs(config, label, earlier), before, changed)


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
