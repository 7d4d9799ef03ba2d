"""MLflow's model registry, read without importing MLflow, which takes seconds: versions, aliases and tags.

An SQLite file is opened to read only. A server is asked over REST, and any other database through SQLAlchemy.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pipelines.catalog.mlflow_server import MlflowServer, Row, is_server, open_server
from pipelines.catalog.runs import ask, is_missing
from pipelines.errors import InputError, did_you_mean
from pipelines.store.dataset import Dataset
from pipelines.store.manifest import hexadecimal
from pipelines.store.store import Store

CHAMPION, CHALLENGER = "champion", "challenger"
# Tags of a version: the decision of the promotion gate or a person, the reason, and the time.
DECISION, WHY, DECIDED = "tokenmill.decision", "tokenmill.why", "tokenmill.decided_at"
# What the gate compared a version with, a digest of the items, and which challenge on these items it was.
AGAINST, ITEMS, CHALLENGE = "tokenmill.against", "tokenmill.items", "tokenmill.challenge"
PROMOTED, KEPT_BACK, ROLLED_BACK, NOT_PROMOTED = "promoted", "kept back", "rolled back", "not promoted"


@dataclass(frozen=True)
class ModelVersion:
    """A registered model's version. `history` lists the champions of the registered model, the present one last."""

    name: str
    version: int
    aliases: tuple[str, ...]
    tags: dict[str, str]
    created: datetime
    history: tuple[int, ...] = ()

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the published model."""
        return self.tags.get("tokenmill.fingerprint")

    @property
    def is_rejected(self) -> bool:
        """Whether the gate kept the version back, or a person took it back."""
        return self.tags.get(DECISION) in (KEPT_BACK, ROLLED_BACK)

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


def registered(tracking_uri: str, name: str | None = None) -> list[ModelVersion]:
    """Return every version of a registered model, or of all, by name and version; none if nothing is registered.

    Raises:
        InputError: there is something at the tracking URI, but it cannot be read as MLflow's registry.
    """
    if is_server(tracking_uri):
        with open_server(tracking_uri) as server:
            versions, tags, aliases, histories = _ask_server(server)
    else:
        versions, tags, aliases, histories = (ask(tracking_uri, query) for query in QUERIES)
    by_version: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for model, version, key, value in tags:
        by_version[model, int(version)][key] = value
    aliases_of: dict[tuple[str, int], list[str]] = defaultdict(list)
    for model, version, alias in aliases:
        aliases_of[model, int(version)].append(alias)
    champions = {model: champions_of(value) for model, value in histories}
    return [
        ModelVersion(
            model,
            int(version),
            tuple(sorted(aliases_of[model, int(version)])),
            by_version[model, int(version)],
            datetime.fromtimestamp(int(created) / 1000, UTC),
            champions.get(model, ()),
        )
        for model, version, created in sorted(versions, key=lambda row: (row[0], int(row[1])))
        if name is None or model == name
    ]


def find_version(tracking_uri: str, name: str, alias: str = "", version: int | None = None) -> ModelVersion | None:
    """Return the version of a registered model that an alias or a number names."""
    versions = registered(tracking_uri, name)
    return next((each for each in versions if alias in each.aliases or each.version == version), None)


HISTORY = "tokenmill.champions"
"""The tag of a registered model that lists the versions that were champion, the present one last."""


def champions_of(value: str | None) -> tuple[int, ...]:
    """Return the versions that the value of the tag `HISTORY` lists."""
    return tuple(int(version) for version in (value or "").split(",") if version.strip().isdigit())


QUERIES = (
    "SELECT name, version, creation_time FROM model_versions WHERE current_stage <> 'Deleted_Internal'",
    "SELECT name, version, key, value FROM model_version_tags",
    "SELECT name, version, alias FROM registered_model_aliases",
    f"SELECT name, value FROM registered_model_tags WHERE key = '{HISTORY}'",  # noqa: S608 - a constant
)


def _ask_server(server: MlflowServer) -> tuple[list[Row], list[Row], list[Row], list[Row]]:
    """Return what `QUERIES` ask a database for."""
    models = list(server.pages("registered-models/search", "registered_models", max_results=1000))
    versions = list(server.pages("model-versions/search", "model_versions", max_results=10_000))
    return (
        [(each["name"], each["version"], each["creation_timestamp"]) for each in versions],
        [(v["name"], v["version"], tag["key"], tag["value"]) for v in versions for tag in v.get("tags", ())],
        [(m["name"], alias["version"], alias["alias"]) for m in models for alias in m.get("aliases", ())],
        [(m["name"], tag["value"]) for m in models for tag in m.get("tags", ()) if tag["key"] == HISTORY],
    )


# Which model a name means


def find_model(reference: str, store: Store, tracking_uri: str, warn: Callable[[str], None]) -> Dataset:
    """Find the model that a reference names.

    `NAME` is the champion of that name. `NAME@ALIAS` and `NAME/VERSION` are looked up in MLflow's registry. The store
    alone knows `NAME@FINGERPRINT`, the first digits of a fingerprint, and `model/NAME` (the newest). If the registry
    has no champion of a name, the newest version that was not decided against is taken, with a warning.

    Raises:
        InputError: there is no such model, or the registry has to be read and cannot be.
    """
    if parts := _registered_parts(reference):
        return _in_store(version_of(tracking_uri, *parts), store)
    newest = store.open(reference, kind="model")
    if "@" in reference or "/" in reference or newest.ref.name != reference:
        return newest
    models = [each for each in store.list("model") if each.ref.name == reference]
    try:
        versions = registered(tracking_uri, reference)
        if is_missing(tracking_uri) and len([each for each in models if "mlflow_run_id" in each.manifest.built]) > 1:
            raise InputError("MLflow's database, where its versions are registered, is missing.")
    except InputError as error:
        raise InputError(
            f"The champion of {reference!r} is unknown: {error} A version that is named exactly, as "
            f"{reference}@FINGERPRINT, needs no registry (see `tokenmill datasets ls model`)."
        ) from None
    if champion := _champion(versions):
        return _in_store(champion, store)
    is_rejected = {version.fingerprint: version.is_rejected for version in versions}
    eligible = [each for each in models if not is_rejected.get(each.ref.fingerprint)]
    if not eligible:
        raise InputError(
            f"MLflow's registry has no champion {reference!r}, and each version was kept back or rolled back; "
            f"make one the champion with `tokenmill promote {reference}/VERSION`."
        )
    warn(f"MLflow's registry has no champion {reference!r}; taking the newest, {eligible[-1]}.")
    return eligible[-1]


def resolve_reference(reference: str, tracking_uri: str) -> str:
    """Return `NAME@ALIAS` and `NAME/VERSION` of the registry as the store knows them; other references as they are.

    Raises:
        InputError: the registry has to be read and cannot be.
    """
    parts = _registered_parts(reference)
    found = find_version(tracking_uri, *parts) if parts else None
    return f"model/{found.name}@{found.fingerprint}" if found else reference


def _registered_parts(reference: str) -> tuple[str, str, int | None] | None:
    """Return name, alias and version number of a reference that only the registry knows; None for others."""
    name, at, alias = reference.partition("@")
    if at and not hexadecimal(alias):
        return name, alias, None
    name, slash, version = reference.rpartition("/")
    return (name, "", int(version)) if slash and version.isdigit() else None


TITLES = {"language": "language model", "classification": "classifier", "instruction": "assistant"}
"""What people call a model, by the task that it was trained for."""


def names_of_task(task: str, store: Store) -> list[str]:
    """Return the names of the models of a task, the name of the newest one last. Baselines from scratch do not count.

    Raises:
        InputError: there are none.
    """
    models = [each for each in store.list("model") if each.manifest.statistics.get("task") == task]
    names = [each.ref.name for each in models if not each.manifest.config.get("from_scratch")]
    if not names:
        raise InputError(f"No {TITLES[task]} is published in {store.address}; `tokenmill run CONFIG` makes one.")
    return list(dict.fromkeys(reversed(names)))[::-1]


def champion(name: str, store: Store, tracking_uri: str) -> Dataset | None:
    """Return the champion of a name, or None if the registry has none.

    Raises:
        InputError: the registry cannot be read, or the champion's weights are not in the store.
    """
    found = _champion(registered(tracking_uri, name))
    return _in_store(found, store) if found else None


def _champion(versions: Sequence[ModelVersion]) -> ModelVersion | None:
    return next((version for version in versions if CHAMPION in version.aliases), None)


def version_of(tracking_uri: str, name: str, alias: str = "", version: int | None = None) -> ModelVersion:
    """Return a registered version, by alias or number.

    Raises:
        InputError: the registry does not have it.
    """
    if found := find_version(tracking_uri, name, alias, version):
        return found
    what = f"{name}@{alias}" if version is None else f"{name}/{version}"
    versions = registered(tracking_uri)
    known = [str(each) for each in versions] + [f"{each.name}@{alias}" for each in versions for alias in each.aliases]
    hint = did_you_mean(what, known, "see `tokenmill models`.")
    raise InputError(f"MLflow's registry has no model {what}; {hint}")


def _in_store(version: ModelVersion, store: Store) -> Dataset:
    if not version.fingerprint:
        raise InputError(f"{version} in MLflow's registry is no model of tokenmill; see `tokenmill models`.")
    return store.open(f"{version.name}@{version.fingerprint}", kind="model")
