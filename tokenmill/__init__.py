"""tokenmill in Python: models, datasets, SQL and runs, by the names that the command line takes.

    import tokenmill
    tokenmill.model("quickstart").complete("In the beginning")

Each function imports what it needs when it is called.
"""

from tokenmill.shadows import refuse_shadows

refuse_shadows()

# ruff: noqa: E402 - nothing of ours may be imported before the check
import flows  # noqa: F401 - sets variables that PyTorch, Prefect and MLflow read when they are imported
from pipelines.errors import InputError
from tokenmill.data import catalog, corpus, manifest, sql, tokens
from tokenmill.models import model, tokenizer
from tokenmill.runs import run
from tokenmill.training import batches, dataset, write_bin

__all__ = [
    "InputError",
    "batches",
    "catalog",
    "corpus",
    "dataset",
    "manifest",
    "model",
    "run",
    "sql",
    "tokenizer",
    "tokens",
    "write_bin",
]
