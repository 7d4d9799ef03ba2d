"""A text token by token, with the probability that a model gave to each."""

import math
from collections.abc import Callable, Iterator

from pipelines.report.figures.part import Part, ReadToken
from pipelines.store.dataset import Dataset
from pipelines.tokens.shards import Tokens

MAX_TOKENS = 120  # of a text


def reading_parts(dataset: Dataset, tokens: Dataset | None, sentence: str | None) -> Iterator[Part]:
    """Yield the part that shows how a model reads a sentence, or else the beginning of a held-out document."""
    import torch

    from pipelines.models.language_model import open_gpt

    model = open_gpt(dataset.path)
    ids, origin = _text_to_read(tokens, sentence, model.encode)
    ids = ids[: min(MAX_TOKENS, model.gpt.config.context - 1)]
    if not ids:
        return
    device = next(model.gpt.parameters()).device
    with torch.inference_mode():
        context = torch.tensor([[model.tokenizer.end_of_text, *ids[:-1]]], device=device)  # (1, T)
        logits = model.gpt(context)[0].float().log_softmax(-1)  # (T, V)
    texts = [token.decode("utf-8", "replace") for token in model.tokenizer.token_bytes]
    read, rows, total = [], [], 0.0
    for token, row in zip(ids, logits, strict=True):
        bits = -float(row[token]) / math.log(2)
        total += bits
        rank = int((row > row[token]).sum()) + 1
        best = row.topk(min(3, len(row))).indices.tolist()
        expected = ", ".join(f"{texts[i]!r} {math.exp(float(row[i])):.0%}" for i in best)
        title = f"{texts[token]!r}: probability {2**-bits:.2%}, {bits:.1f} bits, rank {rank:,}\nexpected {expected}"
        read.append(ReadToken(texts[token], min(round(100 * bits / 12), 100), title))
        rows.append((repr(texts[token]), f"{2**-bits:.2%}", round(bits, 2), rank, expected))
    yield Part(
        "How it reads",
        f"Each token of {origin}; the colour shows the model's surprise: {total / len(ids):.2f} bits a token. "
        "Point at a token to see what the model expected instead.",
        columns=("token", "probability", "bits", "rank", "expected"),
        rows=rows,
        tokens=read,
    )


def _text_to_read(
    tokens: Dataset | None, sentence: str | None, encode: Callable[[str], list[int]]
) -> tuple[list[int], str]:
    """Return the ids of the text that the model reads, and the origin of the text."""
    if sentence:
        return encode(sentence), "the text that the config gives"
    if not tokens:
        return [], ""
    for split in ("test", "validation", "train"):
        for stream in Tokens(tokens).streams(split):
            if len(stream) > 1:
                ids = [int(i) for i in stream[: MAX_TOKENS + 1]]
                end = Tokens(tokens).tokenizer.end_of_text
                first = ids[: ids.index(end)] if end in ids[8:] else ids
                return first, f"the beginning of a document of the {split} split"
    return [], ""
