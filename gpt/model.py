"""A GPT from top to bottom: embeddings, blocks of attention and MLP, the head.

With the default config the model is GPT-2 exactly (Radford et al. 2019). Comments give the shapes of tensors:
B batch, T time, C channels, H heads, D channels of a head, S cached positions, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gpt.config import GPTConfig
from gpt.machine import linear


class GPT(nn.Module):
    """A decoder-only transformer that predicts the next token.

    `forward` returns logits. Training uses `hidden` and `head_weight` instead, so that it never stores all logits.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.tokens = Embedding(config.vocabulary, config.width)
        self.positions = Embedding(config.context, config.width) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, bias=config.bias)
        self.head = None if config.tied else Linear(config.width, config.vocabulary, bias=False)
        self.recompute = False  # activation checkpointing: a second forward pass saves memory
        self._rotation: Tensor | None = None

    def forward(
        self, ids: Tensor, positions: Tensor | None = None, documents: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Return the logits (B, T, V) of the token after each position. The arguments are those of `hidden`."""
        return linear(self.hidden(ids, positions, documents, cache), self.head_weight)

    def hidden(
        self, ids: Tensor, positions: Tensor | None = None, documents: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Return the residual stream after the last norm, (B, T, C).

        Args:
            ids: (B, T) token ids, T at most the context.
            positions: (B, T) position of each token, by default 0..T-1, or the next ones after the cache.
            documents: (B, T) document number of each token; attention stays within a document. By default one.
            cache: keys and values of the earlier tokens, to which the new ones are appended.

        Raises:
            ValueError: there are more tokens than the context or the cache can hold, or both documents and a cache.
        """
        T, S = ids.shape[1], self.config.context
        if T > S:
            raise ValueError(f"{T} tokens are more than the model's context of {S}: pass fewer")
        mask = None
        if cache is not None:
            if documents is not None:
                raise ValueError("a cache holds one document a row: pass no documents with it")
            positions, mask = cache.extend(T, positions)
        elif documents is not None:
            mask = (documents[:, :, None] == documents[:, None, :]).tril()[:, None]  # (B, 1, T, T)
        x = self.tokens(ids)  # (B, T, C)
        if self.positions is not None:
            x = x + (self.positions.weight[:T] if positions is None else self.positions(positions))
        x = F.dropout(x, self.config.dropout, self.training)
        rotation = self.rotation(positions, T, x.device) if self.config.positions == "rotary" else None
        for i, block in enumerate(self.blocks):
            store = None if cache is None else LayerCache(cache, i)
            if self.recompute and self.training:
                x = checkpoint(block, x, rotation, mask, store, use_reentrant=False)
            else:
                x = block(x, rotation, mask, store)
        return self.norm(x)

    @property
    def head_weight(self) -> Tensor:
        """Return the matrix (V, C) that turns `hidden` into logits."""
        return self.tokens.weight if self.head is None else self.head.weight

    @torch.no_grad()
    def extend(self, vocabulary: int) -> None:
        """Grow the vocabulary to this size. New embeddings start as the mean of the others (Hewitt 2021)."""
        new = vocabulary - self.config.vocabulary
        if new <= 0:
            return
        for layer in (self.tokens, self.head):
            if layer is not None:
                layer.weight = nn.Parameter(torch.cat([layer.weight, layer.weight.mean(0).expand(new, -1)]))
        self.tokens.num_embeddings = vocabulary
        if self.head is not None:
            self.head.out_features = vocabulary
        self.config = self.config.model_copy(update={"vocabulary": vocabulary})

    def flops_per_token(self, time: int) -> float:
        """Count the floating-point operations of training on one token, forward and backward.

        These are 6 for each weight that a matrix product reads, plus 12 L C T / 2 for attention in L layers. The
        formula is from Chowdhery et al. (2022), appendix B, except the half: half of the attention is masked.

        Args:
            time: tokens in a sequence, T.
        """
        matrices = sum(p.numel() for p in self.blocks.parameters() if p.ndim == 2) + self.head_weight.numel()
        return 6 * matrices + 6 * self.config.layers * self.config.width * time

    def rotation(self, positions: Tensor | None, time: int, device: torch.device) -> Tensor:
        """Return unit complex numbers (1 or B, T, 1, 1, D/2) that rotate queries and keys by their position."""
        if self._rotation is None or self._rotation.device != device:
            size = self.config.width // self.config.heads
            with torch.inference_mode(False):  # the tensor is kept, and training may follow generation
                frequency = 10000.0 ** -(torch.arange(0, size, 2, device=device).float() / size)
                angle = torch.outer(torch.arange(self.config.context, device=device).float(), frequency)
                self._rotation = torch.polar(torch.ones_like(angle), angle)[:, None, None]  # (S, 1, 1, D/2)
        return self._rotation[:time][None] if positions is None else self._rotation[positions]


class Block(nn.Module):
    """Attention, then an MLP. Each reads a norm of the residual stream and adds to the stream.

    With `causal=False`, every token also attends to later ones.
    """

    def __init__(self, config: GPTConfig, causal: bool = True):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, bias=config.bias)
        self.attention = Attention(config, causal)
        self.mlp_norm = nn.LayerNorm(config.width, bias=config.bias)
        self.mlp = MLP(config)
        self.dropout = config.dropout

    def forward(
        self, x: Tensor, rotation: Tensor | None = None, mask: Tensor | None = None, store: LayerCache | None = None
    ) -> Tensor:
        """Transform the residual stream, (B, T, C) to (B, T, C).

        Args:
            x: (B, T, C) residual stream.
            rotation: unit complex numbers of rotary positions, as from `GPT.rotation`.
            mask: (B, 1, T, S), True where a query may attend to a key. It replaces the causal mask.
            store: this block's part of the cache.
        """
        x = x + F.dropout(self.attention(self.attention_norm(x), rotation, mask, store), self.dropout, self.training)
        return x + F.dropout(self.mlp(self.mlp_norm(x)), self.dropout, self.training)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017), through PyTorch's fused kernels where they exist."""

    def __init__(self, config: GPTConfig, causal: bool = True):
        super().__init__()
        self.heads, self.causal, self.qk_norm, self.dropout = config.heads, causal, config.qk_norm, config.dropout
        self.qkv = Linear(config.width, 3 * config.width, config.bias)
        self.output = projection(config, config.width)

    def forward(self, x: Tensor, rotation: Tensor | None, mask: Tensor | None, store: LayerCache | None) -> Tensor:
        """Mix the values of all visible positions, (B, T, C) to (B, T, C), with the arguments of `Block`."""
        B, T, C = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.heads, C // self.heads)  # (B, T, 3, H, D)
        qk, v = qkv[:, :, :2], qkv[:, :, 2]
        if self.qk_norm:
            qk = F.layer_norm(qk, (qk.shape[-1],))
        if rotation is not None:
            qk = rotate(qk, rotation)
        q, k, v = (t.transpose(1, 2) for t in (qk[:, :, 0], qk[:, :, 1], v))  # (B, H, T, D)
        causal = self.causal and mask is None
        if store is not None:
            causal = causal and store.is_empty
            k, v = store.append(k, v)  # (B, H, S, D)
        y = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0, is_causal=causal)
        return self.output(y.transpose(1, 2).reshape(B, T, C))


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate each pair of channels of x (B, T, 2, H, D) by the angle of its position (Su et al. 2021)."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).type_as(x)


class MLP(nn.Module):
    """Two linear layers with 4C channels between them, applied to each position separately."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.activation = config.activation
        self.input = Linear(config.width, 4 * config.width, config.bias)
        self.output = projection(config, 4 * config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position, (B, T, C) to (B, T, C)."""
        x = self.input(x)  # (B, T, 4C)
        x = F.gelu(x, approximate="tanh") if self.activation == "gelu" else ReLU2.apply(x)
        return self.output(x)


class ReLU2(torch.autograd.Function):
    """The activation max(x, 0)² (So et al. 2021).

    Its gradient is 2 max(x, 0), so the backward pass keeps max(x, 0) instead of x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Compute max(x, 0)², of any shape."""
        x = F.relu(x)
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Compute the gradient of x, of the same shape."""
        (x,) = ctx.saved_tensors
        return (grads[0] * x).mul_(2)


class Linear(nn.Linear):
    """`nn.Linear` with the machine's fastest product and GPT-2's initial values.

    Weights are normally distributed, and biases are zero.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool, std: float = 0.02):
        self.std = std
        super().__init__(inputs, outputs, bias)

    def reset_parameters(self) -> None:
        """Set the initial values, except on the meta device, where values are loaded later."""
        if not self.weight.is_meta:
            nn.init.normal_(self.weight, std=self.std)
            if self.bias is not None:
                nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer, (..., in) to (..., out)."""
        return linear(x, self.weight, self.bias)


class Embedding(nn.Embedding):
    """`nn.Embedding` with GPT-2's initial values."""

    def reset_parameters(self) -> None:
        """Set the initial values, except on the meta device, where values are loaded later."""
        if not self.weight.is_meta:
            nn.init.normal_(self.weight, std=0.02)


def projection(config: GPTConfig, inputs: int) -> Linear:
    """Make a layer that writes to the residual stream, with an initial scale of 0.02 / √(2 layers) or 0.

    GPT-2 scales these layers down so that the stream does not grow with depth (Radford et al. 2019).
    """
    std = 0.0 if config.zero_init else 0.02 / math.sqrt(2 * config.layers)
    return Linear(inputs, config.width, config.bias, std)


class Cache:
    """The keys and values of the tokens read so far, so that the next token costs one position.

    Rows may have different numbers of tokens. Set `lengths` after reading right-padded prompts: values past a row's
    length are never read, and new tokens overwrite them.
    """

    def __init__(self, model: GPT, batch: int, capacity: int):
        """Allocate a cache for `batch` rows of at most `capacity` tokens."""
        c, like = model.config, model.tokens.weight
        shape = (2, c.layers, batch, c.heads, capacity, c.width // c.heads)
        self.store = torch.zeros(shape, dtype=like.dtype, device=like.device)  # (2, layers, B, H, capacity, D)
        self.lengths = [0] * batch
        self._start = [0] * batch
        self._index: Tensor | None = None  # (B, T) index of the new tokens, where rows differ

    def extend(self, time: int, positions: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Reserve the next `time` tokens of each row and return their positions and mask.

        Args:
            time: new tokens in each row, T.
            positions: (B, T) positions to return, by default the next ones of each row.

        Returns:
            Positions (B, T), and a mask (B, 1, T, S), or None where a causal mask or none is enough.

        Raises:
            ValueError: the tokens do not fit.
        """
        device, capacity = self.store.device, self.store.shape[4]
        if max(self.lengths) + time > capacity:
            raise ValueError(f"the cache holds {capacity} tokens: {max(self.lengths)} + {time} do not fit")
        self._start, self.lengths = self.lengths, [n + time for n in self.lengths]
        index = torch.tensor(self._start, device=device)[:, None] + torch.arange(time, device=device)  # (B, T)
        uniform = min(self._start) == max(self._start)
        self._index = None if uniform else index
        mask = None
        if not (uniform and (time == 1 or self._start[0] == 0)):
            mask = torch.arange(max(self.lengths), device=device) <= index[:, None, :, None]
        return (index if positions is None else positions), mask


class LayerCache:
    """One block's view of a `Cache`."""

    def __init__(self, cache: Cache, layer: int):
        self.cache, self.layer = cache, layer

    @property
    def is_empty(self) -> bool:
        """Return whether the cache had no tokens before the current ones."""
        return max(self.cache._start) == 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (B, H, T, D) of the new tokens and return all keys and values so far, (B, H, S, D)."""
        cache, end = self.cache, max(self.cache.lengths)
        for store, new in zip(cache.store[:, self.layer], (k, v), strict=True):
            if cache._index is None:
                store[:, :, cache._start[0] : end] = new
            else:
                rows = torch.arange(len(store), device=new.device)[:, None]
                store[rows, :, cache._index] = new.transpose(1, 2)
        keys, values = cache.store[:, self.layer, :, :, :end]
        return keys, values
