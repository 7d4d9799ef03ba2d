"""The config that a plan becomes: TOML, in which comments say why each key has its value."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

from pipelines.config import parse_config
from pipelines.numbers import duration, short, size
from pipelines.starter.amount import NEAR
from pipelines.starter.plan import Finetuning, Plan
from pipelines.starter.sources import Source
from pipelines.starter.toml import comment, table

PROMPTS, PROMPT_WORDS, PROMPT_LETTERS = 2, 4, 40
SCORED = 100_000  # held-out tokens that are scored on a CPU


def write_config(plan: Plan, name: str, uri: str) -> str:
    """Return a config.

    Args:
        plan: what it says.
        name: of the run.
        uri: what the person asked for.
    """
    text = "\n".join(_parts(plan, name, uri))
    parse_config(tomllib.loads(text), name)
    return text


def describe_text(plan: Plan) -> str:
    """Return the amount of text in a few words."""
    amount = plan.amount
    about = "" if amount.is_tried else "about "
    return (
        f"{about}{short(amount.documents)} documents, {about}{size(amount.bytes)} of text, "
        f"about {short(plan.tokens)} tokens to train on"
    )


def _parts(plan: Plan, name: str, uri: str) -> Iterator[str]:
    yield comment(
        f"Written by `tokenmill init` for {uri}\n"
        f"It found {describe_text(plan)}.\n"
        f"A run takes about {duration(plan.seconds)} on the machine where this was written: tokenmill run FILE\n"
        "Every key is explained in docs/configuration.md. Change what you like: steps that it concerns are run again."
    )
    yield table("", {"name": name}, {"name": "the name of the models, and of the experiment in MLflow"})
    yield _ingest(plan)
    for source in plan.sources:
        yield table("[[ingest.sources]]", source.keys, source.comments)
    yield _tokens(plan)
    yield _pretrain(plan)
    yield _evaluate(plan)
    for finetuning in plan.finetunings:
        yield from _finetune(finetuning, plan)


def _ingest(plan: Plan) -> str:
    keys: dict[str, Any] = {}
    if plan.clean:
        keys["clean"] = list(plan.clean)
    if plan.has_languages:
        keys["language"] = True
    keys |= {"near_duplicates": NEAR, "split": {"validation": plan.amount.share, "test": plan.amount.share}}
    comments = {
        "clean": "repair wrongly decoded letters; one space between words, one blank line between paragraphs",
        "language": "several were seen: a column to filter by, such as keep = [\"language = 'en'\"]",
        "near_duplicates": "of texts that share so many of their word sequences, one is kept",
        "split": "shares of the documents that are held out: to choose the best weights, and for the final test",
    }
    return table("[ingest]", keys, comments)


def _tokens(plan: Plan) -> str:
    if plan.vocabulary is None:
        tokenize = table(
            "[tokenize]", {"encoding": "characters"}, {"encoding": "the text is too little for byte pairs"}
        )
    else:
        keys = {"encoding": "bpe", "vocabulary": plan.vocabulary}
        comments = {
            "encoding": 'learnt from this text; "gpt2" is ready-made, for English and for large models',
            "vocabulary": f"more text is worth a larger one; here, a token has {plan.bytes_per_token:.1f} bytes",
        }
        tokenize = table("[tokenize]", keys, comments)
    why = {"context": "tokens that the model sees at a time; longer ones take more time and memory"}
    return f"{tokenize}\n{table('[sample]', {'context': plan.context}, why)}"


def _pretrain(plan: Plan) -> str:
    every = max(1, plan.steps // 8)
    keys = {
        "steps": plan.steps,
        "batch_size": plan.size.batch,
        "warmup": 10,
        "optimizer": "muon",
        "learning_rate": 6e-3,
        "muon_learning_rate": 0.01,
        "schedule": "wsd",
        "decay_share": 1.0,
        "final_share": 0.0,
        **plan.machine.training_keys(),
        "evaluate_every": every,
        "checkpoint_every": every,
        "prompts": _prompts(plan),
    }
    comments = {
        "steps": f"reads the text {plan.epochs:.1f} times; a step took {plan.step_seconds:.2g} s here. More steps, "
        "better text, until the validation loss rises",
        "batch_size": f"windows in a step: {plan.size.batch} x {plan.context} tokens",
        "optimizer": 'for the matrices inside the blocks; "adamw" is the usual one',
        "decay_share": "after the warm-up, the learning rate falls to zero in a line",
        "threads": "of the processor; equal numbers give equal bits",
        "precision": "half the memory and twice the speed on a GPU",
        "evaluate_every": "steps; the weights with the lowest validation loss are kept",
        "prompts": "that the model continues at each evaluation, to read in MLflow",
    }
    model = {"preset": "modern", "layers": plan.size.layers, "heads": plan.size.heads, "width": plan.size.width}
    model |= {"dropout": plan.dropout} if plan.dropout else {}
    why = {
        "preset": '"gpt2" is the architecture of 2019',
        "layers": f"a model for some {short(plan.tokens)} tokens; a larger one memorises them",
        "dropout": "against memorising what is read several times",
    }
    return f"{table('[pretrain]', keys, comments)}\n{table('[pretrain.model]', model, why)}"


def _evaluate(plan: Plan) -> str:
    keys: dict[str, Any] = {} if plan.machine.has_gpu else {"max_tokens": SCORED}
    keys["prompts"] = _prompts(plan)
    comments = {
        "max_tokens": "held-out tokens to score",
        "prompts": "that the report shows the model's continuations of",
    }
    return table("[evaluate]", keys, comments)


def _prompts(plan: Plan) -> list[str]:
    """Return the first words of some texts."""
    texts = [text for kind in plan.survey.kinds for text in kind.texts[:20]]
    starts = [" ".join(text.split()[:PROMPT_WORDS])[:PROMPT_LETTERS] for text in texts]
    return list(dict.fromkeys(start for start in starts if start.isprintable() and start))[:PROMPTS] or [""]


def _finetune(finetuning: Finetuning, plan: Plan) -> Iterator[str]:
    task, columns = finetuning.task, finetuning.task.kind.columns
    assert columns
    header, is_classifier = f"finetune.{task.name}", columns.kind == "labels"
    about = f"A classifier of {columns.label}" if is_classifier else "An assistant that answers"
    yield comment(f"{about}, from the pretrained model. A run names it {{name}}-{task.name}.") + table(
        f"[{header}]", {"task": "classification" if is_classifier else "instruction"}
    )
    share = {"split": {"validation": plan.amount.share, "test": plan.amount.share}}
    same = "as in [ingest]: what is held out there is held out here"
    read = "as in [ingest]; but pretraining reads answers that are held out here, so their loss looks too good"
    yield table(f"[{header}.examples]", share, {"split": same if is_classifier else read})
    yield from _sources(f"{header}.examples", task.sources)
    every = max(1, finetuning.steps // 6)
    keys: dict[str, Any] = {"steps": finetuning.steps, "batch_size": finetuning.batch}
    comments = {"steps": f"reads {finetuning.examples:,} examples {finetuning.epochs:.1f} times"}
    if is_classifier:
        keys |= {"optimizer": "muon", "learning_rate": 5e-4, "muon_learning_rate": 5e-3, "trainable": "all"}
        comments["trainable"] = '"last:2" trains the last two blocks, which is faster'
        if _is_unbalanced(columns.labels):
            keys["balance"] = "weights"
            comments["balance"] = "errors on rare labels cost more"
    else:
        keys |= {"learning_rate": 5e-4, "template": "plain"}
        comments["template"] = 'how a conversation is written; "chatml" and "alpaca" are others'
    keys |= {"warmup": min(20, finetuning.steps // 4), **plan.machine.training_keys(), "evaluate_every": every}
    yield table(f"[{header}.training]", keys, comments)


def _sources(header: str, sources: Sequence[Source]) -> Iterator[str]:
    for source in sources:
        yield table(f"[[{header}.sources]]", source.keys, source.comments)


def _is_unbalanced(labels: Sequence[tuple[str, int]]) -> bool:
    counts = [count for _, count in labels]
    return max(counts) > 4 * min(counts)
