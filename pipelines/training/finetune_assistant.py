"""Fine-tune a pretrained GPT into an assistant that follows instructions."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import Field
from torch import nn

from gpt.generate import Sampling
from gpt.lora import choose_trainable
from gpt.machine import device
from gpt.model import GPT
from gpt.train import Metrics
from gpt.weights import save_model
from pipelines.corpus.examples import Examples
from pipelines.errors import InputError
from pipelines.models.language_model import as_assistant, fits, open_gpt
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType
from pipelines.tokens.templates import NamedTemplate, save_template, template_named
from pipelines.tokens.tokenized_examples import LossOn, TokenizedExamples, TokenizeExamplesConfig
from pipelines.training.batches import PackedBatches, PaddedBatches
from pipelines.training.fit import FinetuneConfig, fit, mean_loss, training_headline, training_statistics
from pipelines.training.tuning import NOTHING_TO_CHOOSE_ON, tuning_examples


class AssistantConfig(FinetuneConfig):
    """How an assistant is fine-tuned."""

    batch_size: int = Field(16, gt=0)
    """Examples in a micro-batch; with packing, windows."""
    template: NamedTemplate = template_named("plain")
    """How conversations are written: alpaca, chatml, phi-3, plain, a TOML file, or a table."""
    loss_on: LossOn = "responses"
    """Learnt tokens: of all responses, of the last response, or all."""
    packing: bool = False
    """Let examples share a window, with separate attention and positions."""
    trainable: str = Field("all", pattern=r"^(all|last:[1-9][0-9]*|lora)$")
    """What learns: all, last:N for the last N blocks and the final norm, or lora."""

    @property
    def tokenize_examples(self) -> TokenizeExamplesConfig:
        """Return how the examples are written."""
        return TokenizeExamplesConfig(template=self.template, loss_on=self.loss_on)


def run_assistant(
    inputs: Mapping[str, Dataset], config: AssistantConfig, out: Path, work: StepContext
) -> dict[str, Any]:
    """Train the model to answer. By default only responses and their ends of turn count in the loss."""
    assistant = as_assistant(open_gpt(inputs["model"].path), config.template)
    examples, tokenized = Examples(inputs["examples"]), TokenizedExamples(inputs["lessons"])
    model, context = assistant.gpt, assistant.gpt.config.context
    tokenized.check(model.config.vocabulary, context)
    batches = partial(PackedBatches, context=context) if config.packing else PaddedBatches
    train = batches(*tokenized.pairs("train"), config.batch_size, config.accumulation, config.seed)
    chosen = tuning_examples(tokenized, examples)
    sequences, targets = ([each[i] for i in chosen] for each in tokenized.pairs("validation"))
    tuning = PaddedBatches(sequences, targets, config.batch_size, config.accumulation, config.seed)
    if not chosen:
        work.listener.warn(NOTHING_TO_CHOOSE_ON.format(item="example"))
    torch.manual_seed(config.seed)
    try:
        choose_trainable(
            model, config.trainable, config.lora_rank, config.lora_alpha, embeddings=bool(config.template.special)
        )
    except ValueError as error:
        raise InputError(f"training.trainable: {error}.") from None
    learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)

    def evaluate(model: nn.Module) -> Metrics:
        if not chosen:
            return {}
        return {"val/loss": mean_loss(cast(GPT, model), (batch.to(device()) for batch in tuning.in_order()))}

    shown = [row for row in examples.rows("validation") if fits(assistant, row.messages)][:5]

    def show(step: int) -> None:
        answers = assistant.complete([assistant.prompt(row.messages) for row in shown], Sampling(60))
        pairs = [f"> {row.instruction}\n{answer}" for row, answer in zip(shown, answers, strict=True)]
        work.listener.text(f"samples/step-{step:06d}.txt", "\n\n".join(pairs) + "\n")

    result = fit(model, train, config, work, evaluate=evaluate, show=show)
    save_model(model, out, assistant.stop[0][0] if len(assistant.stop[0]) == 1 else assistant.tokenizer.end_of_text)
    assistant.tokenizer.save(out)
    save_template(config.template, out / "template.json")
    return {
        "task": "instruction",
        **training_statistics(model, result),
        "parameters_trained": learnt,
        "epochs": round(result.step * config.accumulation / train.batches_per_epoch, 2),
    }


FINETUNE_ASSISTANT = StepType(
    "finetune-assistant",
    kind="model",
    version=4,
    config=AssistantConfig,
    run=run_assistant,
    packages=("gpt", "pipelines.models", "pipelines.training"),
    headline=training_headline,
)
