"""New data: a published model is scored on it beside its own baselines, and nothing is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.catalog.model_versions import is_on_new_data
from pipelines.errors import InputError
from pipelines.evaluation.compare import evaluations_of
from pipelines.new_data import evaluate_new, plan
from pipelines.starter.survey import survey
from pipelines.store.dataset import Dataset
from pipelines.store.step import Step, StepContext
from pipelines.store.store import Store

Score = Callable[..., tuple[Dataset, list[str], list[str]]]


@pytest.fixture
def score(made: Callable[[str], Dataset]) -> Score:
    """score(STEP, FILE, ...) returns the evaluation of the model that a step made, the steps it took, and sentences."""
    store = Store(made("pretrain").folder.parents[1])

    def run(step_name: str, data: Path, **columns: str) -> tuple[Dataset, list[str], list[str]]:
        performed, said = [], []

        def perform(step: Step) -> Dataset:
            performed.append(step.type.name)
            return store.build(
                step, lambda out, scratch: step.type.run(step.inputs, step.config, out, StepContext(scratch))
            )

        config = plan(made(step_name), "tiny", survey(str(data)), **columns)
        return evaluate_new(perform, config, store, said.append).evaluation, performed, said

    return run


@pytest.mark.slow
def test_classifier_is_scored_beside_baselines_of_its_training(
    score: Score, made: Callable[[str], Dataset], tmp_path: Path
) -> None:
    own = made("evaluate-classifier")
    seen = pq.read_table(made("examples").file("examples.parquet"), filters=[("split", "==", "train")])["text"][0]
    rows = [f"{i},{label},a new text of number {i}" for i, label in enumerate(["prose", "<b>code"] * 6)]
    quoted = str(seen).replace('"', '""')
    (tmp_path / "new.csv").write_text("\n".join(["id,kind,body", *rows, f'99,prose,"{quoted}"']))
    evaluation, performed, said = score("finetune-classifier", tmp_path / "new.csv", label="kind", text="body")
    assert performed == ["examples", "evaluate-classifier"], "nothing is trained"
    systems = set(pq.read_table(evaluation.file("metrics.parquet"))["system"].to_pylist())
    assert {"model", "TF-IDF logistic regression", "majority class"} <= systems
    assert evaluation.manifest.statistics["scored_examples"] == 13
    assert said == [f"1 of 13 texts are in the train split of {made('examples')}; they make the model look too good."]
    model = made("finetune-classifier").ref
    assert evaluations_of(model, [own, evaluation]) == [own, evaluation], "that of its run comes first"
    assert is_on_new_data(evaluation) and not is_on_new_data(own)


@pytest.mark.integration
def test_language_model_is_scored_on_text_in_its_own_tokens(
    score: Score, made: Callable[[str], Dataset], tmp_path: Path
) -> None:
    (tmp_path / "new.txt").write_bytes("Grüße aus Köln, wo der Käse müde ist.\n\n".encode("cp1252") * 40)
    evaluation, performed, said = score("pretrain", tmp_path / "new.txt")
    assert performed == ["ingest", "tokenize", "evaluate-language"] and not said
    systems = set(pq.read_table(evaluation.file("metrics.parquet"))["system"].to_pylist())
    assert systems == {"model", "unigram", "trigram"}
    assert evaluation.manifest.statistics["test/bits_per_byte"] > 0


def test_data_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    def model(task: str) -> Any:
        manifest = SimpleNamespace(statistics={"task": task})
        return SimpleNamespace(ref=SimpleNamespace(name="mill", fingerprint="ab12" * 16), manifest=manifest)

    (tmp_path / "new.txt").write_text("Some text and no label.")
    (tmp_path / "new.csv").write_text("label,text\n" + "ham,a text\nspam,another text\n" * 5)
    text, table = (survey(str(tmp_path / name)) for name in ("new.txt", "new.csv"))
    with pytest.raises(InputError, match="needs a column of labels: name it with --label"):
        plan(model("classification"), "tiny", text)
    with pytest.raises(InputError, match="has no column 'labl'; did you mean 'label'"):
        plan(model("classification"), "tiny", table, label="labl")
    with pytest.raises(InputError, match="--label is for a classifier"):
        plan(model("language"), "tiny", table, label="label")
    with pytest.raises(InputError, match="needs conversations or responses"):
        plan(model("instruction"), "tiny", table)
