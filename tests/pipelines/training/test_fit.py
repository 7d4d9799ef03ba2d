from gpt.config import gpt_config
from gpt.model import GPT
from gpt.train import TrainConfig
from pipelines.store.step import Listener, StepContext
from pipelines.training.batches import PaddedBatches
from pipelines.training.fit import fit


def test_metrics_are_flushed_before_each_checkpoint(tmp_path):
    calls = []

    class Recorder(Listener):
        def metrics(self, step, values):
            calls.append(step)

        def flush(self):
            calls.append(sorted(folder.name for folder in (tmp_path / "checkpoints").glob("step-*")))

    batches = PaddedBatches([[1, 2, 3]] * 4, [[2, 3, 4]] * 4, 2, 1, seed=0)
    config = TrainConfig(steps=4, checkpoint_every=2, log_every=1)
    model = GPT(gpt_config("pico", vocabulary=9, context=8))
    fit(model, batches, config, StepContext(tmp_path, Recorder()), evaluate=lambda model: {"val/loss": 1.0})
    assert calls == [0, 1, [], 2, 3, 4, ["step-00000002"]]
