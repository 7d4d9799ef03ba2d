"""The checks before a run starts: what it reads from outside must be there, before a server is started for it.

What needs the text itself is checked as early as the chain knows it (`pipelines/chain.py`): after ingest whether the
splits are enough, after the examples whether a classifier can learn their labels, after tokenizing whether
conversations fit the context. All of this is before anything is trained.
"""

from collections.abc import Iterator

from pipelines.config import InstructionRun, RunConfig
from pipelines.corpus.places import is_local
from pipelines.corpus.sources import list_files
from pipelines.errors import InputError
from pipelines.evaluation.judge import key_of_judge
from pipelines.tokens.tokenize import find_tokenizer


def check_outside(config: RunConfig, until: str = "evaluate") -> None:
    """Check that the files and variables of a run are there, up to its last step.

    Addresses of other machines are left to their steps, which try again if one does not answer.

    Raises:
        InputError: something is missing. The sentence names the key.
    """
    for key, uri in _places(config, until):
        if is_local(uri) or uri.startswith("package://"):
            try:
                list_files(uri)
            except InputError as error:
                raise InputError(f"{key}: {error}") from None
    if until != "ingest" and not config.base:
        find_tokenizer(config.tokenize)
    for key, part in config.finetune.items() if until == "evaluate" else ():
        if isinstance(part, InstructionRun) and part.evaluate.judge:
            try:
                key_of_judge(part.evaluate.judge)
            except InputError as error:
                raise InputError(f"finetune.{key}.{error}") from None


def _places(config: RunConfig, until: str) -> Iterator[tuple[str, str]]:
    """Yield the URIs that a run reads, each with its key."""
    ingests = (
        {"ingest": config.ingest} if config.ingest else {f"corpora.{name}": c for name, c in config.corpora.items()}
    )
    for key, ingest in ingests.items():
        for kind in ("sources", "decontaminate"):
            yield from ((f"{key}.{kind}.{n}.uri", each.uri) for n, each in enumerate(getattr(ingest, kind)))
        if ingest.bad_words:
            yield f"{key}.bad_words", ingest.bad_words
    if until in ("finetune", "evaluate"):
        for name, part in config.finetune.items():
            sources = enumerate(part.examples.sources)
            yield from ((f"finetune.{name}.examples.sources.{n}.uri", each.uri) for n, each in sources)
    if until == "evaluate":
        yield from ((f"tasks.{name}.uri", task.uri) for name, task in config.tasks.items())
