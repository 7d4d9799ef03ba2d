"""The config of ingest: sources, splits, and the rules that documents must meet."""

import re
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from gpt.config import Config
from pipelines.corpus.cleaning import CleanerName
from pipelines.corpus.documents import SplitConfig
from pipelines.corpus.sources import FileSource, Uri

VERSION = 6  # raised when the meaning of ingest changes, so that old corpora are not reused as new ones


class SourceConfig(FileSource):
    """Files of one kind, and the columns to take from them."""

    text: str = "text"
    """The column that holds the text, or the turns of a conversation."""
    group_by: tuple[str, ...] = ()
    """Consecutive records equal in these columns make one document."""
    separator: str = "\n"
    """The text between the texts of a group."""
    metadata: tuple[str, ...] = ()
    """Columns to keep beside the text."""

    @cached_property
    def kept(self) -> tuple[str, ...]:
        """The columns that become a document's metadata."""
        return (*self.group_by, *self.metadata)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The columns to read."""
        return (self.text, *self.kept)


class IngestConfig(Config):
    """The config of an ingest: from source files to a corpus."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    """The sources of text, in order."""
    split: SplitConfig = SplitConfig()
    """Shares of documents that are held out."""
    undecodable: Literal["reject", "repair"] = "reject"
    """Reject a text with bytes outside its encoding, or repair it by marks in their place."""
    clean: tuple[CleanerName, ...] = ()
    """Cleaners of the texts, in this order."""
    language: bool = False
    """Whether to detect the language of each document."""
    keep: Annotated[tuple[str, ...], BeforeValidator(lambda keep: (keep,) if isinstance(keep, str) else keep)] = ()
    """Rules that documents must meet: SQL over their statistics, or the presets gopher, c4."""
    bad_words: Uri | None = Field(None, json_schema_extra={"fingerprint": False})
    """A file of words and phrases, one per line, that the statistic bad_words counts in a document."""
    near_duplicates: float | None = Field(None, gt=0, le=1)
    """Similarity from which documents are near duplicates; by default, none are."""
    decontaminate: tuple[SourceConfig, ...] = ()
    """Evaluation sets, whose passages must not be in the corpus."""
    passage_words: int = Field(13, gt=0)
    """Equal words in a row that make a shared passage."""
    contaminated: Literal["drop", "cut"] = "drop"
    """Whether to drop documents with such a passage, or cut the passage out."""
    partition_bytes: int = Field(64 << 20, ge=1)
    """Size of source files, and of text, that one task handles."""

    @property
    def word_lists(self) -> tuple[SourceConfig, ...]:
        """The list of bad words as a source, if there is one."""
        return (SourceConfig(uri=self.bad_words, name="bad-words"),) if self.bad_words else ()

    @property
    def all_sources(self) -> tuple[SourceConfig, ...]:
        """All that the config reads, in the order of the fingerprint."""
        return (*self.sources, *self.decontaminate, *self.word_lists)

    @model_validator(mode="after")
    def _rules_know_the_language(self) -> Self:
        asks = (rule for rule in self.keep if re.search(r"\blanguage\b", re.sub("'[^']*'", "", rule)))
        if not self.language and (rule := next(asks, None)):
            raise ValueError(f"the rule {rule!r} asks for the language, so language has to be true")
        return self
