"""Text from a model: one token at a time, read through a cache of the keys and values before it."""

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from gpt.batch import fill_rows
from gpt.machine import linear
from gpt.model import GPT, Cache


@dataclass(frozen=True)
class Sampling:
    """Settings of generation: how to choose each token and when to end a text.

    Attributes:
        max_new_tokens: longest continuation, in tokens.
        temperature: 0 takes the likeliest token; above 0, tokens are drawn from softmax(logits / temperature).
        top_k: draw among the k likeliest tokens. None keeps all of them.
        top_p: draw among the likeliest tokens that together reach this probability (Holtzman et al. 2020).
        stop: sequences of ids. Each of them ends the text that it appears in.
        seed: any whole number. The same seed, prompt and settings give the same ids in any batch.

    Raises:
        ValueError: a setting is outside its range.
    """

    max_new_tokens: int
    _: KW_ONLY
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    stop: Sequence[Sequence[int]] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 0:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}: it cannot be negative")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}: take 0 for the likeliest token, or more")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}: at least one token must stay")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: it is a probability above 0, and at most 1")
        if any(len(sequence) == 0 for sequence in self.stop):
            raise ValueError("a stop sequence is empty: it would end every text at once")


def generate(model: GPT, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
    """Continue each prompt and return the new ids only, without the stop sequence that ended them.

    A prompt that occurs several times in the batch gets a different draw each time.

    Texts may outgrow the context. The model then reads a window that ends with the text: when the window is full, its
    older half is dropped.

    Raises:
        ValueError: a prompt is empty, or has a token outside the vocabulary.
    """
    rows: list[list[int]] = [[] for _ in prompts]
    for step in _steps(model, prompts, sampling):
        for row, token in step:
            rows[row].append(token)
    return [_cut_stop(row, sampling.stop) for row in rows]


def stream(model: GPT, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
    """Yield the ids that `generate` returns for one prompt, each once it cannot begin a stop sequence.

    Raises:
        ValueError: the prompt is empty, or has a token outside the vocabulary.
    """
    held: list[int] = []  # ids that may be the beginning of a stop sequence
    for ((_, token),) in _steps(model, [prompt], sampling):
        held.append(token)
        if any(_ends_with(held, sequence) for sequence in sampling.stop):
            break
        starts = (sequence[:n] for sequence in sampling.stop for n in range(1, len(sequence)))
        keep = max((len(start) for start in starts if _ends_with(held, start)), default=0)
        while len(held) > keep:
            yield held.pop(0)
    yield from _cut_stop(held, sampling.stop)


@torch.inference_mode()
def _steps(model: GPT, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[list[tuple[int, int]]]:
    """Yield the new (row, token) pairs of each step. Rows that have ended yield none."""
    _check_prompts(model, prompts)
    if not prompts or not sampling.max_new_tokens:
        return
    was_training = model.training
    model.eval()
    try:
        reader = _Reader(model, prompts, sampling.max_new_tokens)
        generators = _generators(prompts, sampling.seed)
        ended = [False] * len(prompts)
        logits = reader.read_windows()  # (B, V)
        for step in range(sampling.max_new_tokens):
            tokens = _choose(logits, sampling, generators)
            reader.add(tokens)
            yield [(row, token) for row, token in enumerate(tokens) if not ended[row]]
            for row, text in enumerate(reader.texts):
                new = text[reader.prompt_lengths[row] :]
                ended[row] = ended[row] or any(_ends_with(new, sequence) for sequence in sampling.stop)
            if all(ended) or step == sampling.max_new_tokens - 1:
                return
            logits = reader.read_next()
    finally:
        model.train(was_training)


class _Reader:
    """The texts so far, with a window of each in the model's cache."""

    def __init__(self, model: GPT, prompts: Sequence[Sequence[int]], max_new_tokens: int):
        self.model, self.context = model, model.config.context
        self.texts = [list(p) for p in prompts]
        self.prompt_lengths = [len(p) for p in prompts]
        self.starts = [0] * len(prompts)
        self.cache = Cache(model, len(prompts), min(self.context, max(self.prompt_lengths) + max_new_tokens))

    def add(self, tokens: list[int]) -> None:
        """Append one token to every text."""
        for text, token in zip(self.texts, tokens, strict=True):
            text.append(token)

    def read_windows(self) -> Tensor:
        """Read every window from its start and return the logits (B, V) after its last token."""
        for row, text in enumerate(self.texts):
            while len(text) - self.starts[row] > self.context:
                self.starts[row] += max(1, self.context // 2)
        windows = [text[start:] for text, start in zip(self.texts, self.starts, strict=True)]
        lengths = [len(w) for w in windows]
        ids = fill_rows(windows, 0, max(lengths))  # (B, T)
        self.cache.lengths = [0] * len(windows)
        hidden = self.model.hidden(ids.to(self.cache.store.device), cache=self.cache)  # (B, T, C)
        self.cache.lengths = lengths
        last = torch.tensor([n - 1 for n in lengths], device=hidden.device)
        return linear(hidden[torch.arange(len(lengths), device=hidden.device), last], self.model.head_weight)

    def read_next(self) -> Tensor:
        """Read the last token of every text and return the logits (B, V) after it."""
        if any(len(text) - start > self.context for text, start in zip(self.texts, self.starts, strict=True)):
            return self.read_windows()
        ids = torch.tensor([text[-1:] for text in self.texts], device=self.cache.store.device)
        return linear(self.model.hidden(ids, cache=self.cache)[:, 0], self.model.head_weight)


def _choose(logits: Tensor, sampling: Sampling, generators: list[torch.Generator]) -> list[int]:
    """Choose the next token of each row from logits (B, V). Each row draws from its own generator."""
    if sampling.temperature == 0:
        return logits.argmax(-1).tolist()
    weights = _probabilities(logits.float() / sampling.temperature, sampling.top_k, sampling.top_p)  # (B, V)
    draws = torch.stack([torch.rand((), generator=g) for g in generators]).to(logits.device)  # (B,)
    return _draw(weights, draws).tolist()


def _probabilities(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Return probabilities (B, V), zero for the tokens that top_k and top_p leave out."""
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    weights = logits.softmax(-1)
    if top_p is not None and top_p < 1:
        ordered, order = weights.sort(descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered  # 0 for the likeliest token, so that one always stays
        weights = weights.masked_fill(torch.zeros_like(weights).bool().scatter(1, order, before >= top_p), 0.0)
    return weights


def _draw(weights: Tensor, draws: Tensor) -> Tensor:
    """Return the token of each row whose share of the weights contains the draw.

    Args:
        weights: (B, V), any scale.
        draws: (B,) numbers in [0, 1).
    """
    sums = weights.double().cumsum(-1)
    tokens = torch.searchsorted(sums, draws.double()[:, None] * sums[:, -1:], right=True)[:, 0]
    return tokens.clamp_max(weights.shape[1] - 1)


def _generators(prompts: Sequence[Sequence[int]], seed: int) -> list[torch.Generator]:
    """Return one generator a row, seeded by how many earlier rows have the same prompt.

    The rest of the batch thus changes nothing in a row.
    """
    seen: dict[tuple[int, ...], int] = {}
    generators = []
    for prompt in map(tuple, prompts):
        seen[prompt] = seen.get(prompt, -1) + 1
        generators.append(torch.Generator().manual_seed((seed * 1_000_003 + seen[prompt]) % (1 << 63)))
    return generators


def _ends_with(ids: list[int], ending: Sequence[int]) -> bool:
    return ids[-len(ending) :] == list(ending)


def _cut_stop(ids: list[int], stop: Sequence[Sequence[int]]) -> list[int]:
    """Remove the longest stop sequence that the ids end with."""
    longest = max((len(sequence) for sequence in stop if _ends_with(ids, sequence)), default=0)
    return ids[: len(ids) - longest]


def _check_prompts(model: GPT, prompts: Sequence[Sequence[int]]) -> None:
    vocabulary = model.config.vocabulary
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {i} is empty: begin it with at least one token, such as the end of text")
        if bad := [token for token in prompt if not 0 <= token < vocabulary]:
            raise ValueError(f"prompt {i} holds token {bad[0]}, outside the model's vocabulary of {vocabulary}")
