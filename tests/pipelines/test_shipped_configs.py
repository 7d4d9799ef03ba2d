"""The configs that ship load, and the large one trains two steps at a cut size."""

import re
import tomllib
from pathlib import Path

import pytest

from pipelines.config import load_config, parse_config
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.errors import InputError
from pipelines.store.step import Listener, StepContext
from pipelines.tokens.samples import SAMPLE
from pipelines.tokens.tokenize import TOKENIZE
from pipelines.training.pretrain import PRETRAIN

CONFIGS = Path(__file__).parents[2] / "configs"
RUNS = [path for path in sorted(CONFIGS.glob("*.toml")) if path.name != "schedules.toml"]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_shipped_config_loads(path):
    assert load_config(path).name == path.stem


def test_shipped_config_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "quickstart.toml", "configs/quickstart.toml"):
        assert load_config(name) == load_config(CONFIGS / "quickstart.toml")
    with pytest.raises(InputError, match=f"the shipped ones are in {CONFIGS}"):
        load_config("elsewhere/quickstart.toml")
    own = (CONFIGS / "quickstart.toml").read_text().replace('name = "quickstart"', 'name = "own"', 1)
    (tmp_path / "quickstart.toml").write_text(own)
    assert load_config("quickstart.toml").name == "own"


def test_gpt2_124m_is_gpt2_and_half_a_million_tokens_a_step():
    config = load_config(CONFIGS / "gpt2-124m.toml")
    architecture = config.pretrain.model.gpt(50257, config.sample.context)
    assert (architecture.layers, architecture.width, architecture.heads, architecture.tied) == (12, 768, 12, True)
    assert config.pretrain.accumulation * config.pretrain.batch_size * config.sample.context == 2**19
    assert config.pretrain.steps * 2**19 == pytest.approx(10e9, rel=1e-4)


def test_gpt2_124m_trains_two_steps_at_a_cut_size(build, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join(f"Paragraph {i} says that {i} and {i + 1} make {2 * i + 1}." for i in range(400)))
    cut = [
        f"ingest.sources=[{{uri='{texts}', split_at=\"\\n\\n\"}}]",
        "ingest.split={validation=0.2}",
        "sample.context=16",
        "pretrain.model.layers=2",
        "pretrain.model.heads=2",
        "pretrain.model.width=16",
        "pretrain.steps=2",
        "pretrain.batch_size=2",
        "pretrain.accumulation=2",
        "pretrain.processes=1",
        "pretrain.compile=false",
        "pretrain.threads=1",
    ]
    config = load_config(CONFIGS / "gpt2-124m.toml", cut)
    corpus = build(INGEST, config.ingest.model_dump())
    tokens = build(TOKENIZE, config.tokenize.model_dump(), corpus=corpus)
    inputs = {"tokens": tokens, "samples": build(SAMPLE, config.sample.model_dump(), tokens=tokens)}
    losses = []

    class Losses(Listener):
        def metrics(self, step, values):
            losses.append(values.get("val/loss"))

    (tmp_path / "scratch").mkdir()
    (tmp_path / "out").mkdir()
    statistics = PRETRAIN.run(inputs, config.pretrain, tmp_path / "out", StepContext(tmp_path / "scratch", Losses()))
    assert statistics["steps"] == 2 and statistics["tokens_trained"] == 2 * 2 * 2 * 16
    assert 10 < losses[-1] < 11.5  # ln 50257 is 10.8


DOCS = CONFIGS.parent / "docs"
SHOWN = [
    (page.name, block)
    for page in (DOCS / "ingest.md", DOCS / "tokens.md")
    for block in re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
]


@pytest.mark.parametrize(("page", "block"), SHOWN)
def test_config_shown_in_the_docs_is_valid(page, block):
    values = tomllib.loads(block)
    if not {"ingest", "corpora"} & values.keys():
        values["ingest"] = {"sources": [{"uri": "texts"}]}
    parse_config({"name": "shown", **values}, page)
