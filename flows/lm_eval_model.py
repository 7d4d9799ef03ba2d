"""Our models in EleutherAI's lm-eval (Language Model Evaluation Harness), as its model `tokenmill`.

`python -m flows.lm_eval_model` is lm-eval's own command line, which then accepts the names of our models:

    python -m flows.lm_eval_model run --model tokenmill --model_args model=quickstart --tasks hellaswag --limit 100
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from flows.tracking.registry import find_model
from gpt.generate import Sampling
from pipelines.models.language_model import LanguageModel, open_gpt
from pipelines.models.scoring import log_likelihoods, sliding_losses


@register_model("tokenmill")
class TokenmillLM(LM):
    """One of our language models or assistants, in lm-eval's interface.

    Args:
        model: the model's name, as in `tokenmill`'s commands: NAME, NAME@ALIAS, NAME/VERSION or NAME@FINGERPRINT; or
            a model's folder; or the model itself.
    """

    def __init__(self, model: str | LanguageModel, batch_size: int | str | None = None, **_: Any) -> None:
        super().__init__()
        self.model = model if isinstance(model, LanguageModel) else open_gpt(_folder(model))
        self.rows = int(str(batch_size)) if str(batch_size).isdecimal() else 32  # lm-eval also passes "auto"

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return log-probabilities of continuations, and whether each is the likeliest.

        The arguments of a request are (context, continuation).
        """
        return log_likelihoods(self.model, [request.args for request in requests], self.rows)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return log-probabilities of texts. Each text is a document, scored in sliding windows.

        The arguments of a request are (text,).
        """
        start = self.model.tokenizer.end_of_text
        texts = [np.array([start, *self.model.tokenizer.encode(request.args[0]).tolist()]) for request in requests]
        return [-float(sliding_losses(self.model.gpt, [text]).sum()) for text in texts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return continuations, each cut before the first of its stop texts.

        The arguments of a request are (context, settings).
        """
        return [self._continue(*request.args) for request in requests]

    def _continue(self, context: str, settings: dict[str, Any]) -> str:
        until = settings.get("until") or []
        until = [until] if isinstance(until, str) else until
        temperature = float(settings.get("temperature") or 0) if settings.get("do_sample") else 0.0
        most, text = int(settings.get("max_gen_toks", 256)), ""
        sampling = Sampling(most, temperature=temperature, top_k=settings.get("top_k"), top_p=settings.get("top_p"))
        for piece in self.model.stream(context, sampling):
            text += piece
            if ends := [text.index(stop) for stop in until if stop and stop in text]:
                return text[: min(ends)]
        return text


def _folder(model: str) -> Path:
    return Path(model) if (Path(model) / "config.json").exists() else find_model(model).path


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    sys.exit(cli_evaluate())
