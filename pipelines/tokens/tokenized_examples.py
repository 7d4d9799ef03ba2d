"""Tokenize examples: fine-tuning examples become tokens, encoded once for a model and for every training on them.

A labelled text is cut to the model's context, and ends with the end of text, where a classifier reads its answer.
A conversation is written with a template, and each of its tokens is marked as learnt or not.

Output: `lessons.arrow` (Arrow IPC, one record batch for each split), with the columns of `LESSONS`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpt.batch import IGNORE
from gpt.config import Config
from gpt.weights import read_config
from pipelines.corpus.conversation import Message, recent
from pipelines.corpus.documents import SPLITS, split_counts
from pipelines.corpus.examples import Example, Examples
from pipelines.errors import InputError
from pipelines.numbers import counted, short
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType
from pipelines.tokens.mapped import LESSONS, map_batches
from pipelines.tokens.templates import NamedTemplate, Template
from pipelines.tokens.tokenizer import Tokenizer, classifier_tokens
from pipelines.tokens.tokenizers import load_tokenizer

FILE = "lessons.arrow"

LossOn = Literal["responses", "last", "all"]


class TokenizeExamplesConfig(Config):
    """How examples are written for a model. The settings of the fine-tuning decide this."""

    template: NamedTemplate | None = None
    """How conversations are written; labelled texts need no template."""
    loss_on: LossOn = "responses"
    """Which tokens of a conversation are learnt."""


def run(inputs: Mapping[str, Dataset], config: TokenizeExamplesConfig, out: Path, work: StepContext) -> dict[str, Any]:
    """Encode the examples of every split with the model's tokenizer, each to at most its context."""
    folder, examples = inputs["model"].path, Examples(inputs["examples"])
    tokenizer, context = load_tokenizer(folder), read_config(folder).context
    if config.template and config.template.special:
        tokenizer = tokenizer.with_special(config.template.special)
    schema = LESSONS[tokenizer.dtype is np.uint32]
    count: Counter[str] = Counter()
    with pa.OSFile(str(out / FILE), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for split in SPLITS:
            found = examples.rows(split)
            rows = [row | {"split": split} for row in _encode(tokenizer, found, config, context, count)]
            if split != "test" and not found:
                raise InputError(
                    f"{inputs['examples']} has no {split} examples; give it more, or another share of them."
                )
            if split != "test" and not rows:
                raise _none_fits(inputs["examples"], split, context)
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
            count[f"lessons_{split}"] = len(rows)
            count["lessons"] += len(rows)
    for problem, (noun, sentence) in WARNINGS.items():
        if count[problem]:
            work.listener.warn(sentence.format(context=context, them=counted(count[problem], noun)))
    if count["full"]:
        work.listener.warn(f"cut off {counted(count['full'], 'text')} at the context of {context} tokens")
    if count["marked"]:
        work.listener.warn(
            f"read special tokens of the template in {counted(count['marked'], 'conversation')} as plain letters"
        )
    names = ("lessons", *(f"lessons_{split}" for split in SPLITS), "tokens", "tokens_learnt", *WARNINGS)
    return {name: count[name] for name in names}


def check_fit(
    examples: Dataset, config: TokenizeExamplesConfig, tokenizer: Tokenizer, context: int, splits: Iterable[str]
) -> None:
    """Check that splits have an example that fits a model, up to the first that does. The model need not exist yet.

    Raises:
        InputError: a split has none.
    """
    if config.template and config.template.special:
        tokenizer = tokenizer.with_special(config.template.special)
    for split in splits:
        if next(_encode(tokenizer, Examples(examples).rows(split), config, context, Counter()), None) is None:
            raise _none_fits(examples, split, context)


def _none_fits(examples: Dataset, split: str, context: int) -> InputError:
    return InputError(
        f"{examples} has no {split} example of at most {context} tokens to learn from; give it more or shorter ones, "
        "or pretrain with a longer context."
    )


WARNINGS = {
    "too_long": ("example", "left out {them} longer than the context of {context} tokens"),
    "shortened": ("conversation", "cut off the oldest turns of {them} longer than the context of {context} tokens"),
    "nothing_to_learn": ("example", "left out {them} with an empty response"),
}


def _headline(s: Mapping[str, Any]) -> str:
    learnt = f", {short(s['tokens_learnt'])} of them learnt" if s["tokens_learnt"] else ""
    return f"{counted(s['lessons'], 'lesson')}: {split_counts(s, 'lessons')}; {short(s['tokens'])} tokens{learnt}"


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
    """A published dataset of tokenized examples, memory-mapped."""

    dataset: Dataset

    @cached_property
    def batches(self) -> list[pa.RecordBatch]:
        """Return a memory-mapped record batch for each split.

        Raises:
            Damaged: the file is damaged.
        """
        batches = map_batches(self.dataset, FILE)
        if len(batches) != len(SPLITS):
            raise self.dataset.damaged(FILE, "it does not have one record batch for each split")
        return batches

    def check(self, vocabulary: int, context: int) -> None:
        """Check that a model can read every lesson.

        Raises:
            Damaged: a token id lies outside its vocabulary, or a lesson is longer than its context.
        """
        for batch in self.batches:
            tokens, learnt = batch["tokens"], batch["learnt"]
            if (pc.max(tokens.values).as_py() or 0) >= vocabulary:
                raise self.dataset.damaged(FILE, f"a token id lies outside the model's vocabulary of {vocabulary:,}")
            if (pc.max(pc.list_value_length(tokens)).as_py() or 0) > context + 1:  # the last token is a target only
                raise self.dataset.damaged(FILE, f"a lesson is longer than the model's context of {context}")
            if learnt.null_count < len(learnt) and not learnt.offsets.equals(tokens.offsets):
                raise self.dataset.damaged(FILE, "a lesson does not tell of each token whether it is learnt")

    def examples(self, split: str) -> list[str]:
        """Return the id of each example of a split."""
        return list(self._batch(split)["example_id"].to_pylist())

    def labels(self, split: str) -> list[str | None]:
        """Return the label of each example of a split."""
        return list(self._batch(split)["label"].to_pylist())

    def tokens(self, split: str) -> list[NDArray[np.int64]]:
        """Return the token ids of each example of a split."""
        return _rows(self._batch(split)["tokens"], np.int64)

    def pairs(self, split: str) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
        """Return the input ids of each example, and its targets: the next ids, or `IGNORE` where nothing is learnt."""
        tokens, learnt = self.tokens(split), _rows(self._batch(split)["learnt"], np.bool_)
        targets = [np.where(kept, ids, IGNORE)[1:] for ids, kept in zip(tokens, learnt, strict=True)]
        return [ids[:-1] for ids in tokens], targets

    def _batch(self, split: str) -> pa.RecordBatch:
        return self.batches[SPLITS.index(split)]


def _rows(column: pa.LargeListArray, dtype: Any) -> list[NDArray[Any]]:
    flat = column.flatten().to_numpy(zero_copy_only=False).astype(dtype)
    return np.split(flat, (column.offsets.to_numpy() - column.offsets[0].as_py())[1:-1]) if len(column) else []


def _encode(
    tokenizer: Tokenizer, examples: Sequence[Example], config: TokenizeExamplesConfig, context: int, count: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of examples, without those that cannot be learnt from."""
    for example in examples:
        if config.template:
            messages = example.conversation
            fitted = fit_conversation(config, tokenizer, messages, context, count)
            if fitted is None:
                continue
            tokens, learnt = fitted
            count["marked"] += any(mark in each.content for mark in config.template.special for each in messages)
        else:
            tokens, learnt = classifier_tokens(tokenizer, example.text, context), None
            count["full"] += len(tokens) == context
        count["tokens"] += len(tokens)
        count["tokens_learnt"] += sum(learnt or ())
        yield {"example_id": example.id, "label": example.label, "tokens": tokens, "learnt": learnt}


def fit_conversation(
    config: TokenizeExamplesConfig, tokenizer: Tokenizer, messages: Sequence[Message], context: int, count: Counter[str]
) -> tuple[list[int], list[bool]] | None:
    """Return the token ids of a conversation and which are learnt, without the oldest exchanges that do not fit.

    Return None if the last exchange alone does not fit, or if its response is empty. Each of these cases is counted.
    """
    assert config.template
    if not messages[-1].content.strip():
        count["nothing_to_learn"] += 1
        return None
    encode = partial(tokenize_conversation, config.template, tokenizer, loss_on=config.loss_on)
    kept = recent(messages, lambda some: len(encode(some)[0]) <= context + 1)  # the last token is a target only
    if kept is None:
        count["too_long"] += 1
        return None
    count["shortened"] += len(kept) < len(messages)
    return encode(kept)


def tokenize_conversation(
    template: Template, tokenizer: Tokenizer, conversation: Sequence[Message], loss_on: LossOn = "responses"
) -> tuple[list[int], list[bool]]:
    """Return the token ids of a whole conversation, and for each whether it is learnt.

    Prompts and responses are encoded separately, so the tokens at their border are the same as in use. A learnt
    response ends with one end of turn, which is learnt too.
    """
    runs = list(template.runs(tokenizer, conversation))
    ids: list[int] = []
    learnt: list[bool] = []
    for number, (run, is_answer) in enumerate(runs, 1):
        ids += run
        is_learnt = loss_on == "all" or (is_answer and (loss_on == "responses" or number == len(runs)))
        learnt += [is_learnt] * len(run)
    return ids, learnt


def inputs_and_targets(
    template: Template, tokenizer: Tokenizer, conversation: Sequence[Message], loss_on: LossOn = "responses"
) -> tuple[list[int], list[int]]:
    """Return a conversation's input ids and targets: the next ids, or `IGNORE` where nothing is learnt."""
    ids, learnt = tokenize_conversation(template, tokenizer, conversation, loss_on)
    return ids[:-1], [token if is_learnt else IGNORE for token, is_learnt in zip(ids[1:], learnt[1:], strict=True)]
