"""Examples: labelled texts, instructions and conversations become one table to fine-tune on.

The text that the model reads decides the split; the opening decides for a conversation. So one question with many
answers, a text that occurs twice and two parts of a conversation are each on one side. A text that a corpus with the
same shares held out is held out here too. If the config asks for near duplicates, they are dropped, and near-equal
openings are on one side.

Output: `examples.parquet` with the columns of `EXAMPLES_SCHEMA`, and `rejected.parquet` as an ingest writes it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from gpt.config import Config
from pipelines.corpus.cells import is_missing, label_of, text_of
from pipelines.corpus.conversation import Message, check_turns
from pipelines.corpus.documents import REJECTED, SPLITS, SplitConfig, document_id, place_of, split_counts, split_of
from pipelines.corpus.duplicates import find_duplicates, rows_to_drop, write_signatures
from pipelines.corpus.ingest.guesses import add_guesses, count_guesses, describe_guesses, warn_of_doubtful
from pipelines.corpus.ingest.hold_out import empty_splits, nearest_shares
from pipelines.corpus.labels import check_labels
from pipelines.corpus.parquet import TableWriter, read_rows
from pipelines.corpus.readers.formats import one_by_one, read_records
from pipelines.corpus.readers.look import look
from pipelines.corpus.readers.records import MAX_REASON, Bad, UnreadableError, no_column, show
from pipelines.corpus.sources import File, FileSource, describe_sources, list_sources
from pipelines.corpus.turns import read_turns
from pipelines.errors import InputError
from pipelines.numbers import counted
from pipelines.store.dataset import Dataset
from pipelines.store.manifest import SourceFile
from pipelines.store.step import StepContext, StepType
from pipelines.visible import cut

# `text` is what the model reads: of an instruction, the instruction and its input. `history` lists what user and
# assistant wrote before the instruction, oldest first.
TEXTS = ("example_id", "source", "location", "split", "text", "label", "instruction", "input", "response")
HISTORY = ("history", pa.list_(pa.string()))
EXAMPLES_SCHEMA = pa.schema([*((name, pa.string()) for name in TEXTS), HISTORY, ("system", pa.string())])

MAX_LABELS, MAX_NAME = 20, 100  # labels in the statistics, and bytes of their names there
MAX_TURNS = 1_000  # of a conversation that becomes several examples

# Columns that change what an example means, by the key that says its kind. The key that reads each, if there is one.
MEANINGFUL: dict[str, dict[str, str]] = {
    "label": {},
    "response": {"context": "input", "system": "system", "history": ""},
    "conversation": {"system": "system", "tools": "", "functions": ""},
}


class ExampleSource(FileSource):
    """Files of examples. Exactly one of label, response and conversation says what they are."""

    text: str = "text"
    """The column of a labelled text."""
    label: str | None = None
    """The column of its label."""
    instruction: str = "instruction"
    """The column of an instruction."""
    input: str | None = None
    """The column of an instruction's input; by default `input`, if there is one. An empty text reads none."""
    response: str | None = None
    """The column of the response."""
    system: str | None = None
    """The column of a system prompt, if there is one."""
    conversation: str | None = None
    """The column of a list of turns: texts, or messages with role and content (YAML: messages)."""
    turns: Literal["whole", "replies", "answers"] = "whole"
    """A conversation is one example, or each reply is one with all turns before it, or each turn answers the first."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(column is not None for column in (self.label, self.response, self.conversation)) != 1:
            raise ValueError("set exactly one of label, response and conversation: it says what the examples are")
        return self

    @property
    def input_column(self) -> str:
        """The column of an instruction's input: the one that is named, else `input` as in the Alpaca data set."""
        guessed = "" if "input" in (self.instruction, self.response) else "input"
        return guessed if self.input is None else self.input

    @property
    def unread(self) -> dict[str, str]:
        """The columns that change what an example means if a file has them, and that no key names."""
        kind = next(kind for kind in MEANINGFUL if getattr(self, kind) is not None)
        named = (self.instruction, self.input, self.response, self.system, self.conversation)
        return {name: key for name, key in MEANINGFUL[kind].items() if name not in named}


class ExamplesConfig(Config):
    """The config of examples: from source files to a table to fine-tune on."""

    sources: tuple[ExampleSource, ...] = Field(min_length=1)
    """The sources of examples, in order."""
    split: SplitConfig = SplitConfig(validation=0.1, test=0.1)
    """Shares of examples that are held out."""
    near_duplicates: float | None = Field(None, gt=0, le=1)
    """Similarity from which examples are near duplicates; by default, none are."""


def run(inputs: Mapping[str, Dataset], config: ExamplesConfig, out: Path, work: StepContext) -> dict[str, Any]:
    """Build the table of examples."""
    listing = list_sources(config.sources)
    later = work.files_that_came_later(lambda: describe_sources(config.sources, listing))
    found, guessed, doubtful = work.scratch / "found.parquet", Counter[str](), dict[str, str]()
    with TableWriter(out / "rejected.parquet", REJECTED) as rejected:
        with TableWriter(found, EXAMPLES_SCHEMA) as table:
            for source in config.sources:
                files = [file for file in listing[source][0] if f"{source.title}/{file.name}" not in later]
                before, problem, unread = table.rows, "", Counter[str]()
                for row in _rows(source, files, unread, guessed, doubtful):
                    if "reason" in row:
                        problem = problem or f"; the first problem: {row['location']}: {row['reason']}"
                    (rejected if "reason" in row else table).write(row)
                if table.rows == before:
                    raise InputError(f"The source {source.title!r} ({source.uri}) has no usable example{problem}.")
                for name, number in unread.items():
                    key = source.unread[name]
                    cure = f"; {key} = {name!r} reads it" if key else ""
                    work.listener.warn(f"the column {name!r} of {source.title!r} has {number:,} values, not read{cure}")
                work.listener.progress(table.rows, table.rows, "examples", source.title)
        target, shares = out / "examples.parquet", config.split
        counts, labels = _write(target, _drop_duplicates(found, config, shares, work.scratch), rejected)
    if empty := empty_splits({f"documents_{split}": counts[split] for split in SPLITS}, shares):
        openings = [row["opening_id"] for row in _drop_duplicates(found, config, shares, work.scratch)]
        shares = nearest_shares([place_of(doc_id) for doc_id in openings], shares)
        counts, labels = _write(target, _drop_duplicates(found, config, shares, work.scratch))
    splits = {f"examples_{split}": counts[split] for split in SPLITS}
    if shares != config.split:
        work.listener.warn(
            f"the shares of split leave {' and '.join(empty)} empty; the examples were divided into "
            f"{split_counts(splits, 'examples')} instead"
        )
    to_learn = config.split.test < 1  # else nobody trains on them
    if empty := [split for split in SPLITS[:2] if to_learn and not counts[split]]:
        work.listener.warn(f"no example is for {' and '.join(empty)}, so a fine-tuning on these will fail")
    warn_of_doubtful(doubtful, guessed, work.listener.warn)
    all_labels = sum(labels.values(), Counter[str]())
    if all_labels and to_learn:
        check_labels(all_labels, labels["train"], work.listener.warn)
    frequent = {f"label_{cut(label, MAX_NAME)}": count for label, count in all_labels.most_common(MAX_LABELS)}
    return {"examples": counts.total(), **splits, "rejected": rejected.rows, **count_guesses(guessed), **frequent}


def _write(
    target: Path, rows: Iterable[dict[str, Any]], rejected: TableWriter | None = None
) -> tuple[Counter[str], dict[str, Counter[str]]]:
    """Write examples, and duplicates among the rejected. Count the examples by split, and by split and label."""
    splits, labels = Counter[str](), {split: Counter[str]() for split in SPLITS}
    with TableWriter(target, EXAMPLES_SCHEMA) as good:
        for row in rows:
            if "reason" not in row:
                good.write(row)
                splits[row["split"]] += 1
                labels[row["split"]].update([row["label"]] if row["label"] is not None else [])
            elif rejected:
                rejected.write(row)
    return splits, labels


def sources(config: ExamplesConfig) -> tuple[SourceFile, ...]:
    """Return name, size and digest of every file that the config names, in the order in which they are read."""
    return describe_sources(config.sources, list_sources(config.sources))


def _details(dataset: Dataset) -> str:
    statistics = dataset.manifest.statistics
    return "\n".join([_headline(statistics), *describe_guesses(statistics)])


def _headline(s: Mapping[str, Any]) -> str:
    return f"{counted(s['examples'], 'example')}: {split_counts(s, 'examples')}; {s['rejected']:,} rejected"


EXAMPLES = StepType(
    "examples",
    kind="examples",
    version=6,
    config=ExamplesConfig,
    run=run,
    sources=sources,
    packages=("pipelines.corpus",),
    headline=_headline,
    details=_details,
)


def _rows(
    source: ExampleSource, files: Iterable[File], unread: Counter[str], guessed: Counter[str], doubtful: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield rows of examples, and rows of rejected records, which have a reason.

    Count columns that are not read, and guesses about files.
    """
    meaningful = source.unread
    for file in files:
        with file.open() as stream:
            try:
                looked = look(stream, file.name, source)
            except UnreadableError as error:
                yield {"source": source.title, "location": f"{file.name} file", "reason": str(error)}
                continue
            add_guesses(looked.guesses, file.name, guessed, doubtful)
            for record in one_by_one(read_records(stream, file.name, looked.options)):
                place = {"source": source.title, "location": f"{file.name} {record.location}"}
                if isinstance(record, Bad):
                    yield place | {"reason": record.sentence, "text": record.text}
                    continue
                try:
                    for example in list(_examples(record.fields, source)):  # all or none of a record's
                        yield place | {"example_id": document_id(_content(example)), **example}
                    unread.update(name for name in meaningful if _has_value(record.fields.get(name)))
                except UnicodeEncodeError:
                    yield place | {"reason": "bytes outside the encoding"}
                except ValueError as error:
                    yield place | {"reason": str(error)[:MAX_REASON], "text": show(record.fields, 1000)}
        file.check_unchanged()


def _examples(fields: Mapping[str, Any], source: ExampleSource) -> Iterator[dict[str, Any]]:
    """Yield the examples of a record.

    Raises:
        ValueError: there are none; the text says why.
    """
    if source.label is not None:
        yield {"text": _filled(fields, source.text), "label": _filled(fields, source.label, label_of)}
    elif source.response is not None:
        instruction, response = _filled(fields, source.instruction), _filled(fields, source.response)
        about, system = (
            text_of(fields.get(name), name) if name else "" for name in (source.input_column, source.system)
        )
        yield _instruction(instruction, response, about, system)
    else:
        messages = _messages(_column(fields, str(source.conversation)), source.turns)
        system = messages[0].content if messages[0].role == "system" else ""
        if not system and source.system:
            system = text_of(fields.get(source.system), source.system)
        turns = [message.content for message in messages if message.role != "system"]
        if source.turns != "whole" and len(turns) > MAX_TURNS:  # each repeats others, so together they take the square
            raise ValueError(f"{len(turns):,} turns; with turns = {source.turns!r}, there may be {MAX_TURNS:,}")
        if source.turns == "answers":
            yield from (_instruction(turns[0], answer, system=system) for answer in turns[1:])
            return
        for i in range(1 if source.turns == "replies" else len(turns) - 1, len(turns), 2):
            yield _instruction(turns[i - 1], turns[i], system=system) | {"history": turns[: i - 1]}


def _instruction(instruction: str, response: str, about: str = "", system: str = "") -> dict[str, Any]:
    text = f"{instruction}\n\n{about}" if about else instruction
    return {"text": text, "instruction": instruction, "input": about, "response": response, "system": system or None}


def _messages(turns: Any, kind: str) -> list[Message]:
    """Return the turns of a conversation.

    Raises:
        ValueError: the turns are malformed or in a wrong order.
    """
    messages, with_roles = read_turns(turns)
    if not with_roles and kind != "answers":
        messages = messages[: len(messages) // 2 * 2]  # the last turn may have no reply
    if with_roles or kind != "answers":
        check_turns(messages)
    return messages


def _has_value(value: Any) -> bool:
    return bool(value) and not is_missing(value)


def _column(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        raise ValueError(no_column(name, fields))
    return fields[name]


def _filled(fields: Mapping[str, Any], name: str, read: Callable[[Any, str], str] = text_of) -> str:
    text = read(_column(fields, name), name)
    if not text:
        raise ValueError(f"column {name!r} is empty")
    return text


def _drop_duplicates(
    found: Path, config: ExamplesConfig, shares: SplitConfig, scratch: Path
) -> Iterator[dict[str, Any]]:
    """Yield examples in order. A duplicate of an earlier one has a reason. Near-equal openings share a split."""
    near = config.near_duplicates
    parts = {"opening": _opening, "asked": _asked, "answer": _answer} if near else {}
    like = {part: _like_earlier(found, of, scratch / part, near) for part, of in parts.items()}
    kept: dict[Any, str] = {}
    for number, row in enumerate(read_rows(found)):
        name = row["example_id"]
        same = {part: like[part].get(number) or {"kept": document_id(of(row))} for part, of in parts.items()}
        row["opening_id"] = same["opening"]["kept"] if near else document_id(_opening(row))
        row["split"] = split_of(row["opening_id"], shares)
        what = (same["asked"]["kept"], same["answer"]["kept"]) if near else bytes.fromhex(name)
        if what in kept:
            similarity = min(same[part].get("similarity", 1.0) for part in ("asked", "answer")) if near else 1.0
            row["reason"] = "exact duplicate" if kept[what] == name else "near duplicate"
            row |= {"doc_id": name, "kept": kept[what], "similarity": similarity}
        kept.setdefault(what, name)
        yield row


def _like_earlier(
    found: Path, part: Callable[[Mapping[str, Any]], str], folder: Path, near: float | None
) -> dict[int, dict[str, Any]]:
    """Return, by row, the examples whose part is equal or nearly equal to an earlier one, and the id of that part."""
    folder.mkdir(exist_ok=True)
    parts = folder / "parts.parquet"
    with TableWriter(parts, pa.schema([("doc_id", pa.string()), ("text", pa.string())])) as table:
        for row in read_rows(found):
            table.write({"doc_id": document_id(part(row)), "text": part(row)})
    write_signatures(parts)
    return rows_to_drop(find_duplicates([parts], folder, near), 0)


def _content(example: Mapping[str, Any]) -> str:
    """Return all texts of an example, which tell it from others."""
    texts = [*(example.get(name) for name in ("text", "label", "response")), *(example.get("history") or ())]
    texts += [example["system"]] if example.get("system") else []
    return "\0".join(text or "" for text in texts)


def _asked(example: Mapping[str, Any]) -> str:
    return "\n".join([example.get("system") or "", *(example.get("history") or ()), example["text"]])


def _answer(example: Mapping[str, Any]) -> str:
    return str(example.get("label") or example.get("response"))


def _opening(example: Mapping[str, Any]) -> str:
    """Return the text that decides the split: the first turn of a conversation, else what the model reads."""
    return str((example.get("history") or [example["text"]])[0])


@dataclass(frozen=True)
class Example:
    """An example to fine-tune on: a text with a label, or a conversation that ends with an instruction's response.

    text: what the model reads; for an instruction, the instruction and its input.
    history: the turns of user and assistant before the instruction, oldest first.
    """

    id: str
    source: str
    split: str
    text: str
    label: str | None = None
    instruction: str | None = None
    input: str | None = None
    response: str | None = None
    history: tuple[str, ...] = ()
    system: str | None = None

    @property
    def opening(self) -> str:
        """The text that decides the split: the first turn of a conversation, else what the model reads."""
        return (*self.history, self.text)[0]

    @property
    def messages(self) -> list[Message]:
        """The conversation up to the instruction, without the response."""
        before = [Message(role="system", content=self.system)] if self.system else []
        for number, turn in enumerate(self.history):
            before.append(Message(role="assistant" if number % 2 else "user", content=turn))
        return [*before, Message(role="user", content=self.instruction or "", input=self.input or "")]

    @property
    def conversation(self) -> list[Message]:
        """The whole conversation with the response."""
        return [*self.messages, Message(role="assistant", content=self.response or "")]


@dataclass(frozen=True)
class Examples:
    """Published examples in one Parquet file, with the columns of `EXAMPLES_SCHEMA`."""

    dataset: Dataset

    def rows(self, split: str) -> list[Example]:
        """Return the examples of a split, in order."""
        names = ["example_id", *(name for name in Example.__dataclass_fields__ if name != "id")]
        table = pq.read_table(self.dataset.file("examples.parquet"), columns=names, filters=[("split", "==", split)])
        return [
            Example(row.pop("example_id"), **row | {"history": tuple(row["history"] or ())})
            for row in table.to_pylist()
        ]
