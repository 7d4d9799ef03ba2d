"""Lessons: fine-tuning examples as tokens, encoded once for a model, however often something is trained on them.

A labelled text is cut to what the model can read, and ends with the end of text, off which a classifier reads its
answer. A conversation is written in a template, and each of its tokens says whether it is learnt.

Output: `lessons.arrow` (Arrow IPC, a record batch for each split), with the columns of `columns_of`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray
from pydantic import Field

from gpt.batch import IGNORE
from gpt.config import Config
from pipelines.corpus.conversation import Message, recent
from pipelines.corpus.documents import SPLITS
from pipelines.corpus.examples import Example, Examples
from pipelines.errors import InputError
from pipelines.model import Assistant, LanguageModel, as_assistant, classifier_tokens, open_gpt
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType
from pipelines.templates import NamedTemplate

FILE = "lessons.arrow"
LossOn = Literal["responses", "last", "all"]


class LessonsConfig(Config):
    """How examples are written for a model to read; follows from how it is fine-tuned."""

    template: NamedTemplate | None = Field(
        default=None, description="How conversations are written; labelled texts need none."
    )
    loss_on: LossOn = Field(default="responses", description="Which tokens of a conversation are learnt.")


def run(inputs: Mapping[str, Dataset], config: LessonsConfig, out: Path, work: StepContext) -> dict[str, Any]:
    """Encode the examples of every split with the model's tokenizer, to no more tokens than its context."""
    model, examples = open_gpt(inputs["model"].path), Examples(inputs["examples"])
    model = as_assistant(model, config.template) if config.template else model
    context = model.gpt.config.context
    schema = columns_of(model.tokenizer.dtype)
    count: Counter[str] = Counter()
    with pa.OSFile(str(out / FILE), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for split in SPLITS:
            found = examples.rows(split)
            rows = list(_encoded(model, found, config.loss_on, count))
            if split != "test" and not found:
                raise InputError(
                    f"{inputs['examples']} has no {split} examples; give it more, or another share of them."
                )
            if split != "test" and not rows:
                raise InputError(
                    f"{inputs['examples']} has no {split} example of at most {context} tokens to learn from; give it "
                    "more or shorter ones, or pretrain with a longer context."
                )
            writer.write_batch(pa.RecordBatch.from_pylist([row | {"split": split} for row in rows], schema))
            count[f"lessons_{split}"] = len(rows)
    for what, sentence in WARNINGS.items():
        if count[what]:
            work.report.warn(f"{count[what]} {sentence.format(context=context)}")
    lessons = sum(count[f"lessons_{split}"] for split in SPLITS)
    names = (*(f"lessons_{split}" for split in SPLITS), "tokens", "tokens_learnt", *WARNINGS)
    return {"lessons": lessons, **{name: count[name] for name in names}}


WARNINGS = {
    "too_long": "examples are longer than the context of {context} tokens and were left out",
    "shortened": "conversations were longer than the context of {context} tokens and lost their oldest turns",
    "nothing_to_learn": "examples have an empty response and were left out",
}


def columns_of(dtype: type[np.unsignedinteger[Any]]) -> pa.Schema:
    """A lesson: the example, its split, its label or null, its token ids, and of each whether it is learnt or null."""
    tokens, learnt = pa.large_list(pa.from_numpy_dtype(dtype)), pa.large_list(pa.bool_())
    names = [("example_id", pa.string()), ("split", pa.string()), ("label", pa.string())]
    return pa.schema([*names, ("tokens", tokens), ("learnt", learnt)])


LESSONS = StepType(
    "lessons",
    kind="lessons",
    version=1,
    config=LessonsConfig,
    run=run,
    modules=("pipelines.lessons", "pipelines.model", "pipelines.templates", "pipelines.tokenizers"),
)


@dataclass(frozen=True)
class Lessons:
    """Published lessons, memory-mapped."""

    dataset: Dataset

    def labels(self, split: str) -> list[str | None]:
        """The label of each lesson of a split."""
        return list(self._batch(split)["label"].to_pylist())

    def tokens(self, split: str) -> list[NDArray[np.int64]]:
        """The token ids of each lesson of a split."""
        return _rows(self._batch(split)["tokens"], np.int64)

    def pairs(self, split: str) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
        """Input ids and targets, one place on, of each lesson; where nothing is to be learnt they are `IGNORE`."""
        tokens, learnt = self.tokens(split), _rows(self._batch(split)["learnt"], np.bool_)
        targets = [np.where(kept, ids, IGNORE)[1:] for ids, kept in zip(tokens, learnt, strict=True)]
        return [ids[:-1] for ids in tokens], targets

    def _batch(self, split: str) -> pa.RecordBatch:
        return pa.ipc.open_file(pa.memory_map(str(self.dataset.file(FILE)))).get_batch(SPLITS.index(split))


def _rows(column: pa.LargeListArray, dtype: Any) -> list[NDArray[Any]]:
    flat = column.flatten().to_numpy(zero_copy_only=False).astype(dtype)
    return np.split(flat, (column.offsets.to_numpy() - column.offsets[0].as_py())[1:-1]) if len(column) else []


def _encoded(
    model: LanguageModel, examples: Sequence[Example], loss_on: LossOn, count: Counter[str]
) -> Iterator[dict[str, Any]]:
    for example in examples:
        if isinstance(model, Assistant):
            taught = lesson(model, example.conversation, loss_on, count)
            if taught is None:
                continue
            tokens, learnt = taught
        else:
            tokens, learnt = classifier_tokens(model.tokenizer, example.text, model.gpt.config.context), None
        count["tokens"] += len(tokens)
        count["tokens_learnt"] += sum(learnt or ())
        yield {"example_id": example.id, "label": example.label, "tokens": tokens, "learnt": learnt}


def lesson(
    assistant: Assistant, conversation: Sequence[Message], loss_on: LossOn, count: Counter[str]
) -> tuple[list[int], list[bool]] | None:
    """Token ids of a conversation and which are learnt, its oldest exchanges left out where they do not fit.

    None if its last exchange alone does not fit, or its response is empty. What was done to it is counted.
    """
    if not conversation[-1].content.strip():
        count["nothing_to_learn"] += 1
        return None
    most = assistant.gpt.config.context + 1  # the last token is a target only
    kept = recent(conversation, lambda some: len(write_lesson(assistant, some)[0]) <= most)
    if kept is None:
        count["too_long"] += 1
        return None
    count["shortened"] += len(kept) < len(conversation)
    return write_lesson(assistant, kept, loss_on)


def write_lesson(
    assistant: Assistant, conversation: Sequence[Message], loss_on: LossOn = "responses"
) -> tuple[list[int], list[bool]]:
    """Token ids of a whole conversation, and of each whether it is learnt.

    Prompts and responses are encoded apart, so that the tokens at their border are those the model will meet when
    it answers. A response that is learnt ends with one end of turn, which is learnt too.
    """
    runs = list(assistant.template.runs(assistant.tokenizer, conversation))
    ids: list[int] = []
    learnt: list[bool] = []
    for number, (run, answer) in enumerate(runs):
        ids += run
        learns = loss_on == "all" or (answer and (loss_on == "responses" or number == len(runs) - 1))
        learnt += [learns] * len(run)
    return ids, learnt


def encode_lesson(
    assistant: Assistant, conversation: Sequence[Message], loss_on: LossOn = "responses"
) -> tuple[list[int], list[int]]:
    """Input ids and targets of a conversation: the ids one place on, or `IGNORE` where nothing is to be learnt."""
    ids, learnt = write_lesson(assistant, conversation, loss_on)
    return ids[:-1], [token if learns else IGNORE for token, learns in zip(ids[1:], learnt[1:], strict=True)]
