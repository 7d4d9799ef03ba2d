"""Measure a small fine-tuned GPT as a spam filter for text messages, beside TF-IDF logistic regression.

    tokenmill pretrain configs/quickstart.toml
    python -m benchmarks.spam [--seeds 3] [--set KEY=VALUE ...]

The pretrained model of the quick start comes from TOKENMILL_HOME. It is fine-tuned once for each seed, with the
settings of `finetune.spam`, and evaluated on the test split. One more model is trained from random weights, to show
the effect of pretraining. Nothing is published in TOKENMILL_HOME. The last line compares the worst seed with the
baseline.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.config import ClassificationRun, load_config
from pipelines.corpus.examples import EXAMPLES
from pipelines.evaluation.classifier import EVALUATE_CLASSIFIER
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType
from pipelines.store.store import Store
from pipelines.tokens.tokenized_examples import TOKENIZE_EXAMPLES
from pipelines.training.finetune_classifier import FINETUNE_CLASSIFIER

BASELINES = ("TF-IDF logistic regression", "hand-made features", "majority class")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.toml")
    parser.add_argument("--model", help="the pretrained model; by default the config's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of the config"
    )
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.set)
    spam = config.finetune["spam"]
    assert isinstance(spam, ClassificationRun)
    home = Path(os.environ.get("TOKENMILL_HOME", "."))
    base = Store(home / "data").open(arguments.model or config.name, kind="model")
    print(f"{base}, {base.manifest.statistics['parameters']:,} parameters")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))

        def build(type: StepType, config: object, **inputs: Dataset) -> Dataset:
            step = type.using("spam", config, inputs)
            return store.build(step, lambda out, scratch: type.run(inputs, config, out, StepContext(scratch)))

        examples = build(EXAMPLES, spam.examples)
        lessons = build(TOKENIZE_EXAMPLES, spam.training.tokenize_examples, model=base, examples=examples)
        sources = {"model": base, "examples": examples, "lessons": lessons}
        scratch = build(FINETUNE_CLASSIFIER, spam.training.model_copy(update={"from_scratch": True}), **sources)
        ours, ratios, rows = [], [], []
        for seed in range(arguments.seeds):
            started = time.perf_counter()
            training = spam.training.model_copy(update={"seed": seed})
            model = build(FINETUNE_CLASSIFIER, training, **sources)
            seconds = time.perf_counter() - started
            evaluation = build(EVALUATE_CLASSIFIER, spam.evaluate, model=model, scratch=scratch, examples=examples)
            rows = pq.read_table(evaluation.file("metrics.parquet")).to_pylist()
            print(f"seed {seed}, {seconds:.0f} s: {_in_words(rows, 'model')}", flush=True)
            ours.append(_value(rows, "model", "f1")["value"])
            ratios.append(ours[-1] / _value(rows, BASELINES[0], "f1")["value"])
        for system in ("from random weights", *BASELINES):
            print(f"{system}: {_in_words(rows, system)}")
        print(f"F1 over {len(ours)} seeds: mean {sum(ours) / len(ours):.4f}, worst {min(ours):.4f}")
        print(f"worst seed / TF-IDF logistic regression: {min(ratios):.4f}, wanted 1")


def _value(rows: list[dict], system: str, metric: str) -> dict:
    return next(row for row in rows if (row["system"], row["metric"]) == (system, metric))


def _in_words(rows: list[dict], system: str) -> str:
    """Return the metrics of a system in one line, with the 95% interval of F1."""
    f1, rest = _value(rows, system, "f1"), ("precision", "recall", "average_precision", "calibration_error")
    others = ", ".join(f"{name} {_value(rows, system, name)['value']:.3f}" for name in rest)
    return f"F1 {f1['value']:.4f} ({f1['low']:.3f} to {f1['high']:.3f}), {others}"


if __name__ == "__main__":
    main()
