"""Names and values of metrics and parameters in the form that MLflow accepts, made without importing MLflow."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from pipelines.visible import cut

MAX_PARAM, MAX_TAG = 6000, 8000  # characters of a value; MLflow cuts off what is longer
MAX_NAME = 250  # of a metric or parameter; MLflow refuses what is longer


def mlflow_names(keys: Iterable[str]) -> dict[str, str]:
    """Return keys in a form that MLflow accepts as names of metrics or parameters, by key. They may hold users' labels.

    Two keys that would become one name each get a digest. A database may not tell upper case from lower.
    """
    names = {key: _plain_name(key) for key in keys}
    taken = Counter(name.lower() for name in names.values())
    return {key: cut(name, MAX_NAME, whole=key if taken[name.lower()] > 1 else "") for key, name in names.items()}


def _plain_name(key: str) -> str:
    plain = re.sub(r"[^\w/. :-]", "_", key)
    name = "/".join(part if part.strip(".") else "_" for part in plain.split("/"))
    return cut(name, MAX_NAME, whole=key if len(name.encode()) > MAX_NAME else "")


def params_of(config: Mapping[str, str]) -> dict[str, str]:
    """Return a flat config with the names and values that MLflow stores."""
    return {name: config[key][:MAX_PARAM] for key, name in mlflow_names(config).items()}
