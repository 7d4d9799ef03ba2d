"""The view of an experiment's runs that shows key metrics and changed parameters as columns.

MLflow's page keeps its columns in the browser, and shows none of these until a person picks them. What others can
write is a saved view, which is a tag of the experiment: the page lists it under *Views*, and a link opens it.
"""

import json
import time
from collections.abc import Iterable, Mapping

from mlflow.tracking import MlflowClient

from pipelines.changes import flat
from pipelines.config import RunConfig

VIEW = "tokenmill"
TAG = f"mlflow.sharedViewState.{VIEW}"
MAX_PARAMS = 40  # columns of parameters; the ones that changed last stay


def save_view(client: MlflowClient, experiment_id: str, config: RunConfig, changed: Iterable[str]) -> None:
    """Show a config's key metrics and changed parameters in the view, besides what it shows already.

    A person may save another view under another name; this one is written again when a column is new.
    """
    shown = _columns(client.get_experiment(experiment_id).tags.get(TAG, ""))
    metrics = (f"metrics.`{name}`" for name in _key_metrics(config))
    params = (f"params.`{name}`" for key in changed if (name := _param(key, config)))
    columns = list(dict.fromkeys([*shown, *metrics, *params]))
    if columns != shown:
        client.set_experiment_tag(experiment_id, TAG, _view(columns))


def _key_metrics(config: RunConfig) -> list[str]:
    """Return the metrics by which models are compared, as a flow's run names them."""
    metric = config.promote.reported_metric
    tuned = [f"{config.name}-{key}/{metric(part.task)}" for key, part in config.finetune.items()]
    return [metric("language"), "val/loss", *tuned]


def _param(key: str, config: RunConfig) -> str:
    """Return the parameter that holds a key of the config: pretraining's bear the name that its own run gives them."""
    parts, params = key.split("."), flat(config)
    name = next((each for at in range(len(parts), 0, -1) if (each := ".".join(parts[:at])) in params), "")
    return name.removeprefix("pretrain.")


def _columns(value: str) -> list[str]:
    try:
        return [str(each) for each in json.loads(json.loads(value)["state"])["selectedColumns"] if each not in ALWAYS]
    except (ValueError, KeyError, TypeError):
        return []


ALWAYS = ["attributes.`Source`", "attributes.`User`"]


def _view(columns: list[str]) -> str:
    metrics = [each for each in columns if not each.startswith("params.")]
    params = [each for each in columns if each.startswith("params.")][-MAX_PARAMS:]
    state: Mapping[str, object] = {
        "selectedColumns": [*metrics, *params, *ALWAYS],
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
    }
    envelope = {"name": VIEW, "createdAt": int(time.time() * 1000), "state": json.dumps(state)}
    return json.dumps(envelope)
