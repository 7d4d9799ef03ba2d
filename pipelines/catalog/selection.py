"""The datasets that a catalog shows: the pinned versions, else the newest version of each name."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence

from pipelines.errors import InputError
from pipelines.store import lineage
from pipelines.store.dataset import Dataset
from pipelines.store.kinds import View, kind_of
from pipelines.store.store import Store
from pipelines.tokens.tokenizer import Tokenizer


class Selection:
    """The datasets of one catalog, by kind and by the name that the views give them.

    all: every published dataset when the catalog was opened.
    shown: kind to name to dataset. A name has a fingerprint only if several datasets of the kind share the name.
    """

    def __init__(self, store: Store, pins: Sequence[str] = ()) -> None:
        """Select datasets.

        Raises:
            InputError: a pin fits no dataset, or fits several.
        """
        self.store = store
        self.all = store.list()
        self.shown = _newest(self.all) | _pinned(store, self.all, pins)

    def dataset(self, kind: str, name: str = "") -> Dataset:
        """Return a dataset by the name that the views show or by any other reference; without a name, the only one.

        Raises:
            InputError: there is no such dataset, or there are several and none is named.
        """
        shown = self.shown.get(kind, {})
        name = name or self.only(kind)
        return shown.get(name) or self.store.open(name, kind)

    def only(self, kind: str) -> str:
        """Return the name of the only dataset of a kind.

        Raises:
            InputError: there is none, or there are several.
        """
        shown = self.shown.get(kind, {})
        if not shown:
            raise InputError(
                f"No {kind} dataset is published yet in {self.store.address}; run the step that makes one."
            )
        if len(shown) > 1:
            raise InputError(
                f"There are {len(shown)} {kind} datasets ({_listed(shown)}); name one as the last argument: the column "
                f"dataset of the row, or {next(iter(shown))!r}."
            )
        return next(iter(shown))

    def tokenizer(self, name: str = "") -> Tokenizer:
        """Return the tokenizer of a token dataset; without a name, the one that all of them have.

        Raises:
            InputError: there is no such dataset, or none is named and they have several tokenizers.
        """
        from pipelines.tokens.tokenizer import FILE  # slow to import, and most queries need none
        from pipelines.tokens.tokenizers import load_tokenizer

        shown = self.shown.get("tokens", {})
        if not name and len({dataset.manifest.files[FILE].sha256 for dataset in shown.values()}) == 1:
            name = next(iter(shown))
        return load_tokenizer(self.dataset("tokens", name).file(FILE))

    def datasets_in(self, view: View) -> Iterator[tuple[str, Dataset]]:
        """Yield the datasets that a view shows, each with the name that the view gives it."""
        for kind, shown in self.shown.items():
            if view in kind_of(kind).views:
                yield from shown.items()


def _listed(names: Collection[str], most: int = 8) -> str:
    listed = list(names)[:most]
    return ", ".join(listed) + (", ..." if len(names) > most else "")


def _newest(datasets: Sequence[Dataset]) -> dict[str, dict[str, Dataset]]:
    newest: dict[tuple[str, str], Dataset] = {}
    for dataset in datasets:
        newest.pop((dataset.ref.kind, dataset.ref.name), None)  # so that the newest dataset of all is the last
        newest[dataset.ref.kind, dataset.ref.name] = dataset
    return _by_label(newest.values())


def _pinned(store: Store, datasets: Sequence[Dataset], pins: Sequence[str]) -> dict[str, dict[str, Dataset]]:
    """Return the pinned datasets and, for kinds without a pin, the datasets that they were made from."""
    pinned = {str(dataset.ref): dataset for dataset in map(store.open, pins)}
    kinds = {dataset.ref.kind for dataset in pinned.values()}
    by_ref = {str(dataset.ref): dataset for dataset in datasets}
    chosen = dict(pinned)
    for edge in lineage.edges(datasets) if pins else ():
        if edge.output in pinned and edge.input_kind not in kinds and edge.input in by_ref:
            chosen[edge.input] = by_ref[edge.input]
    return _by_label(chosen.values())


def _by_label(datasets: Collection[Dataset]) -> dict[str, dict[str, Dataset]]:
    """Return datasets by kind and name, or by kind, name and version where several have the same name."""
    names = Counter((dataset.ref.kind, dataset.ref.name) for dataset in datasets)
    found: dict[str, dict[str, Dataset]] = defaultdict(dict)
    for ref, dataset in ((dataset.ref, dataset) for dataset in datasets):
        label = ref.name if names[ref.kind, ref.name] == 1 else f"{ref.name}@{ref.fingerprint[:12]}"
        found[ref.kind][label] = dataset
    return dict(found)
