"""The plan of a run: sizes by the amount of text, and steps by the time of a step."""

import tomllib

import pytest
from somebodys_text import PARAGRAPHS, write_book

from pipelines.corpus.sources import File
from pipelines.errors import InputError
from pipelines.starter import amount
from pipelines.starter.columns import Columns
from pipelines.starter.config import write_config
from pipelines.starter.plan import make_plan
from pipelines.starter.speed import Machine
from pipelines.starter.survey import Kind, Survey, survey


@pytest.fixture
def machine(monkeypatch):
    """machine(seconds_per_step, has_gpu) is a machine that takes this time."""

    def make(seconds, has_gpu=False):
        monkeypatch.setattr(Machine, "seconds_per_step", lambda *_: seconds)
        return Machine(has_gpu, 2)

    return make


BODY = Columns(text="body")


def large(n_bytes, documents=1_000_000, columns=BODY):
    file = File("s3://bucket/a.parquet", "a.parquet", n_bytes // 2, "state")
    lengths = tuple(map(len, PARAGRAPHS))
    kind = Kind("parquet", (file,), "parquet", ("s3://bucket/a.parquet",), columns=columns, records=documents)
    more = {"text_bytes": n_bytes, "texts": tuple(PARAGRAPHS), "lengths": lengths, "languages": (("en", 3), ("de", 2))}
    return Survey("s3://bucket/a.parquet", 1, (Kind(**{**vars(kind), **more}),), (), ())


def test_large_text_trains_for_the_time_there_is(machine):
    plan = make_plan(large(10**9), machine(0.5))
    assert (plan.size.width, plan.vocabulary, plan.amount.share) == (256, 4096, 0.002)
    assert plan.steps == 420 and plan.epochs < 0.1 and plan.dropout == 0
    assert plan.seconds > 10**9 / 2e6
    values = tomllib.loads(write_config(plan, "large", "s3://bucket/a.parquet"))
    assert values["ingest"]["language"] is True


def test_gpu_trains_a_larger_model(machine):
    plan = make_plan(large(10**9), machine(0.05, has_gpu=True))
    assert (plan.size.width, plan.context) == (768, 1024)
    assert 'precision = "bfloat16"' in write_config(plan, "large", "s3://bucket/a.parquet")


def test_finetuning_shares_the_time(machine):
    labels = Columns(text="body", label="stars", labels=(("1", 900), ("5", 20)))
    plan = make_plan(large(10**8, columns=labels), machine(0.5))
    (finetuning,) = plan.finetunings
    assert plan.steps == 250 and 60 < finetuning.seconds < 90
    assert 'balance = "weights"' in write_config(plan, "large", "s3://bucket/a.parquet")


def test_small_text_is_read_few_times_by_a_small_model(machine, tmp_path):
    plan = make_plan(survey(str(write_book(tmp_path))), machine(0.001))
    assert plan.amount.is_tried and plan.amount.documents > 10 and plan.amount.share < 0.3
    assert plan.size.width <= 128 and 3 < plan.epochs < 5 and plan.dropout > 0


@pytest.mark.parametrize("n_files", [3, 4, 9])
def test_few_short_texts_are_enough(machine, tmp_path, n_files):
    for number in range(n_files):
        (tmp_path / f"{number}.txt").write_text(PARAGRAPHS[number])
    plan = make_plan(survey(str(tmp_path)), machine(0.001))
    assert plan.context >= 16 and plan.steps >= 30
    write_config(plan, "few", str(tmp_path))


def test_two_words_are_too_little(machine, tmp_path):
    (tmp_path / "a.txt").write_text("Two words.")
    with pytest.raises(InputError, match="too little text to train on"):
        make_plan(survey(str(tmp_path)), machine(0.001))


def test_file_without_usable_text_costs_itself(machine, tmp_path, monkeypatch):
    write_book(tmp_path)
    (tmp_path / "rows.csv").write_text("text,n\n" + "".join(f"A line of words {n},1\n" for n in range(30)))
    real = amount.try_ingest

    def fail_at_rows(ingest):
        if any(source["uri"].endswith(".csv") or source["uri"] == str(tmp_path) for source in ingest["sources"]):
            raise InputError("The source has no usable document.")
        return real(ingest)

    monkeypatch.setattr(amount, "try_ingest", fail_at_rows)
    plan = make_plan(survey(str(tmp_path)), machine(0.001))
    assert [kind.extension for kind in plan.survey.kinds] == ["txt"]
    assert plan.survey.unread[0].problem == "The source has no usable document"
