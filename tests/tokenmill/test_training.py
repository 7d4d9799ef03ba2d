"""Training data for other trainers: the same windows and the same order as our own training."""

import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import tokenmill
from pipelines.store.store import Store
from pipelines.tokens.samples import SAMPLE, Samples
from pipelines.tokens.shards import Tokens
from pipelines.training.loader import Loader

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Make a few batches ahead, and not thousands."""
    monkeypatch.setattr("pipelines.training.loader.BLOCK", 8192)


@pytest.fixture
def loader(home):
    store = Store(home / "data")
    samples, tokens = Samples(store.open("samples/walks")), Tokens(store.open("tokens/walks"))
    return lambda **options: Loader(samples, tokens, "train", **options)


def equal(batch, other):
    return all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))


def test_batches_are_those_of_our_training(home, loader):
    ours, theirs = loader(batch_size=4, seed=5), tokenmill.batches("walks", batch_size=4, seed=5, home=home)
    assert len(theirs) == len(ours)
    position = 0
    for _ in range(3):  # a pass is an epoch, and the order of the next one is another
        for batch in DataLoader(theirs, batch_size=None):
            assert equal(batch, ours(position)[:2])
            position += 1
    assert position == 3 * len(ours)
    single = tokenmill.batches("walks", batch_size=None, seed=5, home=home)
    assert equal([torch.stack(each) for each in zip(*islice(single, 4), strict=True)], ours(0)[:2])


def test_stream_resumes_at_its_state_or_epoch(home):
    def stream(**options):
        return tokenmill.batches("walks", **{"batch_size": 4, "home": home, **options})

    whole = stream()
    read = [batch for _ in range(2) for batch in whole]
    for taken in (0, 3, len(whole), len(whole) + 1):
        first, second = stream(), stream()
        list(islice((batch for _ in range(2) for batch in first), taken))
        second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))  # noqa: S301 - our own bytes
        assert equal(next(iter(second)), read[taken])
    second.set_epoch(1)
    assert equal(next(iter(second)), read[len(whole)])
    with pytest.raises(tokenmill.InputError, match="seed = 0, and these batches have 1"):
        stream(seed=1).load_state_dict(whole.state_dict())
    with pytest.raises(tokenmill.InputError, match="num_workers=0"):
        list(DataLoader(whole, batch_size=None, num_workers=1))


def test_dataset_gives_windows_to_workers(home, loader):
    windows = tokenmill.dataset("walks", home=home)
    ours = loader(batch_size=len(windows), shuffle=False)(0)
    inputs, targets = (torch.stack(each) for each in zip(*windows, strict=True))
    assert equal((inputs, targets), ours[:2]) and equal(windows[-1], windows[len(windows) - 1])
    copy = pickle.loads(pickle.dumps(windows))  # noqa: S301 - our own bytes
    assert equal(copy[3], windows[3]) and len(pickle.dumps(windows)) < 10_000
    read = list(DataLoader(windows, batch_size=8, num_workers=1))
    assert equal([torch.cat(each) for each in zip(*read, strict=True)], ours[:2])
    with pytest.raises(IndexError):
        windows[len(windows)]


@pytest.mark.parametrize("boundaries", ["stream", "document"])
def test_labels_shifted_by_transformers_are_our_targets(home, boundaries, tmp_path):
    store = Store(tmp_path / "data")
    tokens = Store(home / "data").open("tokens/walks")
    step = SAMPLE.using("walks", SAMPLE.config(context=24, boundaries=boundaries), {"tokens": tokens})
    from pipelines.store.step import StepContext
    from tokenmill.torch_data import WindowDataset

    samples = store.build(step, lambda out, scratch: SAMPLE.run(step.inputs, step.config, out, StepContext(scratch)))
    for pairs, named in zip(
        WindowDataset(samples, tokens, "train"), WindowDataset(samples, tokens, "train", "transformers"), strict=True
    ):
        assert equal((named["input_ids"], named["labels"][1:]), (pairs[0], pairs[1][:-1]))
        assert ("position_ids" in named) == (boundaries == "document") and len(pairs) == (
            2 if boundaries == "stream" else 4
        )


def test_bin_holds_the_ids_as_nanogpt_reads_them(home, tmp_path):
    tokens = Tokens(Store(home / "data").open("tokens/walks"))
    path = tmp_path / "train.bin"
    n = tokenmill.write_bin("walks", path, home=home)
    data = np.memmap(path, dtype=np.uint16, mode="r")
    assert n == len(data) and data.tolist() == np.concatenate([*tokens.streams("train")]).tolist()


@pytest.mark.slow
def test_trainer_of_transformers_reads_our_batches(home, loader, tmp_path):
    pytest.importorskip("accelerate")
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    read = []

    class Model(GPT2LMHeadModel):
        def forward(self, input_ids, labels, **more):
            read.append((input_ids, labels))
            return super().forward(input_ids=input_ids, labels=labels, **more)

    model = Model(GPT2Config(vocab_size=320, n_positions=64, n_embd=8, n_layer=1, n_head=1))
    stream = tokenmill.batches("walks", batch_size=None, seed=2, format="transformers", home=home)
    options = {"max_steps": 8, "per_device_train_batch_size": 4, "report_to": "none", "use_cpu": True}
    Trainer(model, TrainingArguments(str(tmp_path), save_strategy="no", **options), train_dataset=stream).train()
    ours = loader(batch_size=1, seed=2)
    windows = [[ours(4 * step + row) for row in range(len(read[step][0]))] for step in range(5)]
    assert all(torch.equal(read[step][0], torch.cat([w.inputs for w in windows[step]])) for step in range(5))


@pytest.mark.slow
def test_lightning_resumes_with_the_next_batch(home, loader, tmp_path):
    lightning = pytest.importorskip("lightning")
    read = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch):
            read.append(batch)
            return self.layer(torch.ones(1)).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    for steps, checkpoint in ((2, None), (9, tmp_path / "two.ckpt")):  # 6 batches in an epoch
        trainer = lightning.Trainer(max_steps=steps, default_root_dir=tmp_path, enable_checkpointing=False, **quiet)
        stream = tokenmill.batches("walks", batch_size=4, seed=2, home=home)
        trainer.fit(Module(), stream, ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / "two.ckpt")
    ours = loader(batch_size=4, seed=2)
    assert len(read) == 9 and all(equal(batch, ours(number)[:2]) for number, batch in enumerate(read))
