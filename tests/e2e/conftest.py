"""A whole chain on a small real text, run once by the command line with servers and stores of its own."""

import os
import pydoc_data.topics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

CONFIG = """
name = "tiny"
corpus = "topics"
[ingest]
split = {{ validation = 0.15, test = 0.15 }}
[[ingest.sources]]
uri = "{texts}/*.txt"
[tokenize]
encoding = "bpe"
vocabulary = 400
[sample]
context = 64
stride = 64
[pretrain]
steps = 12
batch_size = 8
threads = 1
evaluate_every = 6
checkpoint_every = 2
log_every = 1
prompts = ["The"]
[pretrain.model]
size = "pico"
[finetune.sort]
task = "classification"
[finetune.sort.examples]
split = {{ validation = 0.2, test = 0.3 }}
[[finetune.sort.examples.sources]]
uri = "{texts}/labels.tsv"
label = "label"
[finetune.sort.training]
steps = 6
batch_size = 8
threads = 1
trainable = "all"
evaluate_every = 3
[finetune.answer]
task = "instruction"
[finetune.answer.examples]
split = {{ validation = 0.2, test = 0.3 }}
[[finetune.answer.examples.sources]]
uri = "{texts}/answers.jsonl"
response = "response"
[finetune.answer.training]
steps = 6
batch_size = 8
threads = 1
evaluate_every = 3
[finetune.answer.evaluate]
max_new_tokens = 8
"""


@dataclass(frozen=True)
class Place:
    """A tokenmill home with a tiny config and the texts it names."""

    home: Path
    config: Path

    def tokenmill(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments],
            env=self.environment | environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert not check or done.returncode == 0, done.stderr + done.stdout
        return done

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "TOKENMILL_"))}
        return kept | {"TOKENMILL_HOME": str(self.home), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}


def make_place(home: Path) -> Place:
    """Real text cut small: the Python reference's shorter topics, labelled and asked about by simple rules."""
    texts = home / "texts"
    texts.mkdir(parents=True)
    topics = sorted(pydoc_data.topics.topics.items())
    for name, text in topics[:40]:
        (texts / f"{name.replace('/', '-')}.txt").write_text(text[:3000])
    lines = [line.strip() for _, text in topics for line in text.splitlines() if 30 < len(line.strip()) < 70]
    labelled = [("code" if any(c in line for c in "()=[]") else "prose", line) for line in lines[:160]]
    (texts / "labels.tsv").write_text(
        "label\ttext\n" + "".join(f"{a}\t{b.replace(chr(9), ' ')}\n" for a, b in labelled)
    )
    import json

    pairs = [{"instruction": f"Topic {name}?", "response": text.split("\n")[0][:60] or name} for name, text in topics]
    (texts / "answers.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    config = home / "tiny.toml"
    config.write_text(CONFIG.format(texts=texts))
    return Place(home, config)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, subprocess.CompletedProcess[str]]:
    """A place in which the whole chain has run once, and what it printed. Only to be read."""
    place = make_place(tmp_path_factory.mktemp("finished"))
    return place, place.tokenmill("run", str(place.config))
