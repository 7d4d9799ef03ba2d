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
from numpy.typing import NDArray
from pydantic import Field

from gpt.batch import IGNORE
from gpt.config import Config
from gpt.weights import read_config
from pipelines.corpus.conversation import Message, recent
from pipelines.corpus.documents import SPLITS, split_counts
from pipelines.corpus.examples import Example, Examples
from pipelines.errors import InputError
from pipelines.numbers import short
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType
from pipelines.tokens.templates import NamedTemplate, Template
from pipelines.tokens.tokenizer import FILE as TOKENIZER
from pipelines.tokens.tokenizer import Tokenizer
from pipelines.tokens.tokenizers import load_tokenizer

FILE = "lessons.arrow"


LossOn = Literal["responses", "last", "all"]


class TokenizeExamplesConfig(Config):
    """How examples are written for a model to read; follows from how it is fine-tuned."""

    template: NamedTemplate | None = Field(
        default=None, description="How conversations are written; labelled texts need none."
    )
    loss_on: LossOn = Field(default="responses", description="Which tokens of a conversation are learnt.")


def run(inputs: Mapping[str, Dataset], config: TokenizeExamplesConfig, out: Path, work: StepContext) -> dict[str, Any]:
    """Encode the examples of every split with the model's tokenizer, to no more tokens than its context."""
    folder, examples = inputs["model"].path, Examples(inputs["examples"])
    tokenizer, context = load_tokenizer(folder / TOKENIZER), read_config(folder).context
    if config.template and config.template.special:
        tokenizer = tokenizer.with_special(config.template.special)
    schema = columns_of(tokenizer.dtype)
    count: Counter[str] = Counter()
    with pa.OSFile(str(out / FILE), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for split in SPLITS:
            found = examples.rows(split)
            rows = list(_tokenized(tokenizer, found, config, context, count))
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
            work.listener.warn(f"{count[what]} {sentence.format(context=context)}")
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


def _headline(s: Mapping[str, Any]) -> str:
    learnt = f", {short(s['tokens_learnt'])} of them learnt" if s["tokens_learnt"] else ""
    return f"{s['lessons']:,} lessons: {split_counts(s, 'lessons')}; {short(s['tokens'])} tokens{learnt}"


TOKENIZE_EXAMPLES = StepType(
    "lessons",
    kind="lessons",
    version=1,
    config=TokenizeExamplesConfig,
    run=run,
    packages=("pipelines.tokens",),
    headline=_headline,
)


@dataclass(frozen=True)
class TokenizedExamples:
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


def _tokenized(
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    config: TokenizeExamplesConfig,
    context: int,
    count: Counter[str],
) -> Iterator[dict[str, Any]]:
    for example in examples:
        if config.template:
            fitted = fit_conversation(config.template, tokenizer, example.conversation, config.loss_on, context, count)
            if fitted is None:
                continue
            tokens, learnt = fitted
        else:
            tokens, learnt = classifier_tokens(tokenizer, example.text, context), None
        count["tokens"] += len(tokens)
        count["tokens_learnt"] += sum(learnt or ())
        yield {"example_id": example.id, "label": example.label, "tokens": tokens, "learnt": learnt}


def classifier_tokens(tokenizer: Tokenizer, text: str, context: int) -> list[int]:
    """Return the tokens that a classifier reads: the text's, cut to leave room for the end-of-text token.

    The classifier reads its answer from that last token, which is there even when the text is empty.
    """
    return [*tokenizer.encode(text)[: context - 1].tolist(), tokenizer.end_of_text]


def fit_conversation(
    template: Template,
    tokenizer: Tokenizer,
    conversation: Sequence[Message],
    loss_on: LossOn,
    context: int,
    count: Counter[str],
) -> tuple[list[int], list[bool]] | None:
    """Return the token ids of a conversation and which are learnt, without the oldest exchanges that do not fit.

    Returns None if the last exchange alone does not fit, or if its response is empty. `count` says what was done.
    """
    if not conversation[-1].content.strip():
        count["nothing_to_learn"] += 1
        return None
    most = context + 1  # the last token is a target only
    kept = recent(conversation, lambda some: len(tokenize_conversation(template, tokenizer, some)[0]) <= most)
    if kept is None:
        count["too_long"] += 1
        return None
    count["shortened"] += len(kept) < len(conversation)
    return tokenize_conversation(template, tokenizer, kept, loss_on)


def tokenize_conversation(
    template: Template, tokenizer: Tokenizer, conversation: Sequence[Message], loss_on: LossOn = "responses"
) -> tuple[list[int], list[bool]]:
    """Return the token ids of a whole conversation, and for each whether it is learnt.

    Prompts and responses are encoded separately, so that the tokens at their border are those that the model meets
    when it answers. A response that is learnt ends with one end of turn, which is learnt too.
    """
    runs = list(template.runs(tokenizer, conversation))
    ids: list[int] = []
    learnt: list[bool] = []
    for number, (run, answer) in enumerate(runs):
        ids += run
        learns = loss_on == "all" or (answer and (loss_on == "responses" or number == len(runs) - 1))
        learnt += [learns] * len(run)
    return ids, learnt


def inputs_and_targets(
    template: Template, tokenizer: Tokenizer, conversation: Sequence[Message], loss_on: LossOn = "responses"
) -> tuple[list[int], list[int]]:
    """Return a conversation's input ids and targets: the ids one place on, or `IGNORE` where nothing is learnt."""
    ids, learnt = tokenize_conversation(template, tokenizer, conversation, loss_on)
    return ids[:-1], [token if learns else IGNORE for token, learns in zip(ids[1:], learnt[1:], strict=True)]
