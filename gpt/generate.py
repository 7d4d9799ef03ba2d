"""Text from a model: one token at a time, each read from the keys and values of those before it."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gpt.machine import linear
from gpt.model import GPT, Cache


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: Sequence[Sequence[int]] = (),
    seed: int = 0,
) -> list[list[int]]:
    """Continue each prompt; only the new ids are returned, without the stop sequence that ended them.

    temperature: 0 takes the likeliest token. Above it, tokens are drawn with probability softmax(logits / it).
    top_k: draw among the k likeliest tokens. top_p: among the likeliest that together reach this probability
    (Holtzman et al. 2020).
    stop: sequences of ids, each of which ends its row.
    seed: the same seed, prompt and settings give the same ids, whatever else is in the batch. A prompt that
    stands in the batch several times gets a different draw each time.

    Past the end of the context the model goes on reading a window: when the window is full, its older half is
    dropped.
    """
    rows: list[list[int]] = [[] for _ in prompts]
    for step in _steps(model, prompts, max_new_tokens, temperature, top_k, top_p, stop, seed):
        for row, token in step:
            rows[row].append(token)
    return [_without_stop(row, stop) for row in rows]


def stream(
    model: GPT,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: Sequence[Sequence[int]] = (),
    seed: int = 0,
) -> Iterator[int]:
    """The ids that `generate` would return for one prompt, each as soon as it is known not to begin a stop."""
    held: list[int] = []
    for ((_, token),) in _steps(model, [prompt], max_new_tokens, temperature, top_k, top_p, stop, seed):
        held.append(token)
        if any(_ends_with(held, s) for s in stop):
            break
        keep = max((n for s in stop for n in range(1, len(s)) if _ends_with(held, s[:n])), default=0)
        while len(held) > keep:
            yield held.pop(0)
    yield from _without_stop(held, stop)


@torch.inference_mode()
def _steps(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    stop: Sequence[Sequence[int]],
    seed: int,
) -> Iterator[list[tuple[int, int]]]:
    """Each step's new (row, token) pairs; rows that have ended have none."""
    _check(model, prompts, max_new_tokens, temperature, top_k, top_p, stop)
    if not prompts or not max_new_tokens:
        return
    was_training = model.training
    model.eval()
    try:
        reader = _Reader(model, prompts, max_new_tokens)
        generators = _generators(prompts, seed)
        ended = [False] * len(prompts)
        logits = reader.read_windows()  # (B, V)
        for step in range(max_new_tokens):
            if temperature == 0:
                tokens = logits.argmax(-1).tolist()
            else:
                weights = _probabilities(logits.float() / temperature, top_k, top_p)
                draws = torch.stack([torch.rand((), generator=g) for g in generators]).to(logits.device)
                tokens = _draw(weights, draws).tolist()
            reader.add(tokens)
            yield [(row, token) for row, token in enumerate(tokens) if not ended[row]]
            for row, text in enumerate(reader.texts):
                new = text[reader.prompt_lengths[row] :]
                ended[row] = ended[row] or any(_ends_with(new, s) for s in stop)
            if all(ended) or step == max_new_tokens - 1:
                return
            logits = reader.read_next()
    finally:
        model.train(was_training)


class _Reader:
    """The texts so far, and the model's reading of each one's window."""

    def __init__(self, model: GPT, prompts: Sequence[Sequence[int]], max_new_tokens: int):
        self.model, self.context = model, model.config.context
        self.texts = [list(p) for p in prompts]
        self.prompt_lengths = [len(p) for p in prompts]
        self.starts = [0] * len(prompts)
        self.cache = Cache(model, len(prompts), min(self.context, max(self.prompt_lengths) + max_new_tokens))

    def add(self, tokens: list[int]) -> None:
        for text, token in zip(self.texts, tokens, strict=True):
            text.append(token)

    def read_windows(self) -> Tensor:
        """Read every window from its start, and return the logits (B, V) after its last token."""
        for row, text in enumerate(self.texts):
            while len(text) - self.starts[row] > self.context:
                self.starts[row] += max(1, self.context // 2)
        windows = [text[start:] for text, start in zip(self.texts, self.starts, strict=True)]
        lengths = [len(w) for w in windows]
        ids = torch.zeros(len(windows), max(lengths), dtype=torch.long)
        for row, window in enumerate(windows):
            ids[row, : len(window)] = torch.tensor(window)
        self.cache.lengths = [0] * len(windows)
        hidden = self.model.hidden(ids.to(self.cache.store.device), cache=self.cache)  # (B, T, C)
        self.cache.lengths = lengths
        last = torch.tensor([n - 1 for n in lengths], device=hidden.device)
        return linear(hidden[torch.arange(len(lengths), device=hidden.device), last], self.model.head_weight)

    def read_next(self) -> Tensor:
        """Read the last token of every text, and return the logits (B, V) after it."""
        if any(len(text) - start > self.context for text, start in zip(self.texts, self.starts, strict=True)):
            return self.read_windows()
        ids = torch.tensor([text[-1:] for text in self.texts], device=self.cache.store.device)
        return linear(self.model.hidden(ids, cache=self.cache)[:, 0], self.model.head_weight)


def _probabilities(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Probabilities (B, V), zero for what top_k and top_p leave out."""
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    weights = logits.softmax(-1)
    if top_p is not None and top_p < 1:
        ordered, order = weights.sort(descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered  # the likeliest always stays: nothing is before it
        weights = weights.masked_fill(torch.zeros_like(weights).bool().scatter(1, order, before >= top_p), 0.0)
    return weights


def _draw(weights: Tensor, draws: Tensor) -> Tensor:
    """The token of each row at whose weights' running sum the draw in [0, 1) falls."""
    sums = weights.double().cumsum(-1)
    tokens = torch.searchsorted(sums, draws.double()[:, None] * sums[:, -1:], right=True)[:, 0]
    return tokens.clamp_max(weights.shape[1] - 1)


def _generators(prompts: Sequence[Sequence[int]], seed: int) -> list[torch.Generator]:
    """One a row, seeded by how often the row's prompt came before: the batch around it changes nothing."""
    seen: dict[tuple[int, ...], int] = {}
    generators = []
    for prompt in map(tuple, prompts):
        seen[prompt] = seen.get(prompt, -1) + 1
        generators.append(torch.Generator().manual_seed((seed * 1_000_003 + seen[prompt]) % (1 << 63)))
    return generators


def _ends_with(ids: list[int], ending: Sequence[int]) -> bool:
    return ids[-len(ending) :] == list(ending)


def _without_stop(ids: list[int], stop: Sequence[Sequence[int]]) -> list[int]:
    longest = max((len(s) for s in stop if _ends_with(ids, s)), default=0)
    return ids[: len(ids) - longest]


def _check(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    stop: Sequence[Sequence[int]],
) -> None:
    vocabulary = model.config.vocabulary
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {i} is empty: begin it with at least one token, such as the end of text")
        if bad := [t for t in prompt if not 0 <= t < vocabulary]:
            raise ValueError(f"prompt {i} holds token {bad[0]}, outside the model's vocabulary of {vocabulary}")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens}: it cannot be negative")
    if temperature < 0:
        raise ValueError(f"temperature is {temperature}: take 0 for the likeliest token, or more")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}: at least one token must stay")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}: it is a probability above 0, and at most 1")
    if any(len(s) == 0 for s in stop):
        raise ValueError("a stop sequence is empty: it would end every text at once")
