"""Attention: how a token looks back at the tokens before it.

`scaled_dot_product_attention` is the formula, to be read. `MultiHeadAttention` calls torch's fused
kernel, which computes the same without the whole table of weights in memory, and keeps the keys
and values of earlier positions in a `KVCache` when it decodes.

Shapes: B batch, T time (queries), S source (keys and values), C d_model, H query heads, K key/value
heads, D head_dim.

Sources: Vaswani et al. 2017, "Attention Is All You Need" (arXiv:1706.03762); Su et al. 2021,
"RoFormer" (arXiv:2104.09864); Ainslie et al. 2023, "GQA" (arXiv:2305.13245).
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "attention_weights",
    "scaled_dot_product_attention",
    "causal_mask",
    "sinusoidal_positions",
    "rope_cache",
    "apply_rope",
    "KVCache",
    "MultiHeadAttention",
]


def attention_weights(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B K S D"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "B H T S"]:
    """How much each query attends to each key: softmax(q k^T / sqrt(D)), a distribution per query.

    With fewer key heads than query heads, each key head serves H / K neighbouring query heads.
    A query that `mask` lets attend to nothing has a row of zeros.
    """
    if q.device != k.device:
        raise ValueError(f"q is on {q.device}, but k is on {k.device}")
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)  # (B, H, S, D)
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5  # (B, H, T, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    # Softmax stays the same when a row is shifted; shifted by its maximum, exp cannot overflow.
    highest = scores.amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    exps = (scores - highest).exp()
    # The largest term is exp(0) = 1, so the clamp only acts on a row in which all is masked.
    return exps / exps.sum(-1, keepdim=True).clamp(min=1)


def scaled_dot_product_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B K S D"],
    v: Float[Tensor, "B K S D"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "B H T D"]:
    """For each query, the mean of the values weighted by `attention_weights`.

    `mask` broadcasts to (B, H, T, S); True means that the query may attend to the key.

    Source: Vaswani et al. 2017, section 3.2.1, equation 1.
    """
    v = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)  # (B, H, S, D)
    return attention_weights(q, k, mask) @ v


def causal_mask(
    n_queries: int, n_keys: int | None = None, device: torch.device | None = None
) -> Bool[Tensor, "T S"]:
    """True where a query may attend to a key: to itself and to what came before.

    The queries are the last of the keys, so the diagonal ends in the bottom right corner:

    >>> causal_mask(2, 3).int()
    tensor([[1, 1, 0],
            [1, 1, 1]], dtype=torch.int32)

    Raises: ValueError when there are fewer keys than queries.
    """
    n_keys = n_queries if n_keys is None else n_keys
    if n_keys < n_queries:
        raise ValueError(
            f"the {n_queries} queries are among the keys, so {n_keys} keys are too few"
        )
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)


def _angles(width: int, context_length: int, theta: float | int) -> Float[Tensor, "T half"]:
    """Position times frequency, with frequencies that fall from 1 almost to 1 / theta."""
    if width % 2:
        raise ValueError(f"positions turn pairs of numbers, so a width of {width} must be even")
    if not 0 < theta < float("inf"):
        raise ValueError(f"theta must be positive and finite, not {theta}")
    frequencies = theta ** -(torch.arange(0, width, 2) / width)
    return torch.outer(torch.arange(context_length).float(), frequencies)


def sinusoidal_positions(context_length: int, d_model: int) -> Float[Tensor, "T C"]:
    """The first Transformer's position vectors: sines in even columns, cosines in odd ones.

    Raises: ValueError when `d_model` is odd.
    Source: Vaswani et al. 2017, section 3.5.
    """
    angles = _angles(d_model, context_length, theta=10_000.0)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)  # (T, C/2, 2) -> (T, C)


def rope_cache(
    head_dim: int, context_length: int, theta: float | int = 10_000.0
) -> tuple[Float[Tensor, "T D"], Float[Tensor, "T D"]]:
    """The cosines and sines for `apply_rope`, a row for each position.

    Column i is paired with column i + D/2, so the two halves of a row hold the same angles. This is
    the layout of Hugging Face's Llama and Qwen3; the paper pairs neighbours.

    Raises: ValueError when `head_dim` is odd.
    Source: Su et al. 2021, section 3.2.2, equation 15.
    """
    angles = _angles(head_dim, context_length, theta).repeat(1, 2)  # (T, D)
    return angles.cos(), angles.sin()


def apply_rope(
    x: Float[Tensor, "B H T D"], cos: Float[Tensor, "T D"], sin: Float[Tensor, "T D"]
) -> Float[Tensor, "B H T D"]:
    """Turn each pair (a, b) in `x` by its position's angle: (a cos - b sin, b cos + a sin).

    The product of a query and a key turned like this depends on their positions only through the
    distance between them.

    Source: Su et al. 2021, section 3.4.2, equation 34.
    """
    a, b = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat((-b, a), dim=-1), sin)  # x cos + (-b, a) sin


class KVCache:
    """The keys and values of all positions so far, so that a new token is all there is to compute.

    Memory for `context_length` positions is claimed at once, in the dtype and on the device of
    `like` (float32 on the CPU without it).

    Raises: ValueError when a size is below 1.
    """

    def __init__(
        self,
        n_layers: int,
        batch_size: int,
        n_kv_heads: int,
        context_length: int,
        head_dim: int,
        like: Tensor | None = None,
    ):
        shape = (n_layers, batch_size, n_kv_heads, context_length, head_dim)
        if min(shape) < 1:
            raise ValueError(f"every size of a cache must be at least 1, got {shape}")
        like = torch.empty(0) if like is None else like
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self._layers = [(self.keys[i], self.values[i]) for i in range(n_layers)]  # views of them
        self._length = 0

    @property
    def length(self) -> int:
        """The number of positions stored in every layer."""
        return self._length

    def append(
        self, layer: int, k: Float[Tensor, "B K T D"], v: Float[Tensor, "B K T D"]
    ) -> tuple[Float[Tensor, "B K S D"], Float[Tensor, "B K S D"]]:
        """Store a layer's new keys and values, and return all that it has.

        The length grows once the last layer has stored its own.

        Raises: ValueError when the new ones do not fit, or are of another number of sequences.
        """
        keys, values = self._layers[layer]
        if len(k) != len(keys):
            raise ValueError(f"the cache is for {len(keys)} sequences, not for {len(k)}")
        n_new, context_length = k.shape[2], keys.shape[2]
        start, end = self._length, self._length + n_new
        if end > context_length:
            raise ValueError(
                f"{start} of the cache's {context_length} positions are taken, so {n_new} "
                "more do not fit: truncate it, or make a longer one"
            )
        keys.narrow(2, start, n_new).copy_(k)  # as keys[:, :, start:end] = k, in half the time
        values.narrow(2, start, n_new).copy_(v)
        if layer == len(self._layers) - 1:
            self._length = end
        return keys.narrow(2, 0, end), values.narrow(2, 0, end)

    def truncate(self, length: int) -> None:
        """Forget all positions but the first `length`.

        Raises: ValueError when there are fewer.
        """
        if not 0 <= length <= self._length:
            raise ValueError(f"cannot keep {length} of the {self._length} positions in the cache")
        self._length = length


class MultiHeadAttention(nn.Module):
    """Causal self-attention in several heads; grouped-query attention when n_kv_heads < n_heads.

    `qk_norm` makes what a head's queries and keys go through: nothing here, a norm in chapter 4.

    Raises: ValueError when the heads do not divide evenly, or a size is below 1.
    Source: Vaswani et al. 2017, section 3.2.2; Ainslie et al. 2023, section 2.2.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = False,
        qk_norm: Callable[[int], nn.Module] = nn.Identity,
    ):
        super().__init__()
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        sizes = d_model, n_heads, n_kv_heads, 1 if head_dim is None else head_dim
        if min(sizes) < 1:
            raise ValueError(f"every size must be at least 1, got {sizes}")
        if head_dim is None and d_model % n_heads:
            raise ValueError(
                f"d_model {d_model} is not divisible by n_heads {n_heads}: give head_dim"
            )
        if n_heads % n_kv_heads:
            raise ValueError(f"n_heads {n_heads} is not divisible by n_kv_heads {n_kv_heads}")
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        self.head_dim = d_model // n_heads if head_dim is None else head_dim
        # Queries, keys and values from one matrix: one large product is faster than three small.
        # An optimizer that looks at a whole matrix, such as Muon, takes the three as one, too.
        self.qkv = nn.Linear(d_model, (n_heads + 2 * n_kv_heads) * self.head_dim, bias=bias)
        self.out = nn.Linear(n_heads * self.head_dim, d_model, bias=bias)
        self.qk_normed = qk_norm is not nn.Identity
        self.q_norm, self.k_norm = qk_norm(self.head_dim), qk_norm(self.head_dim)

    def project(
        self,
        x: Float[Tensor, "B T C"],
        rope: tuple[Float[Tensor, "T D"], Float[Tensor, "T D"]] | None = None,
    ) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B K T D"], Float[Tensor, "B K T D"]]:
        """The queries, keys and values of `x`; `rope` turns queries and keys by their positions."""
        B, T, _ = x.shape
        H, K = self.n_heads, self.n_kv_heads
        heads = self.qkv(x).view(B, T, H + 2 * K, self.head_dim)
        qk, v = heads.transpose(1, 2).split_with_sizes((H + K, K), dim=1)  # (B, H + K, T, D), ...
        if self.qk_normed:
            q, k = qk.split_with_sizes((H, K), dim=1)
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), dim=1)
        if rope is not None:
            qk = apply_rope(qk, *rope)  # both at once takes half as many small operations
        q, k = qk.split_with_sizes((H, K), dim=1)
        return q, k, v

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        rope: tuple[Float[Tensor, "T D"], Float[Tensor, "T D"]] | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Float[Tensor, "B T C"]:
        """Let each position gather from itself, from those before it, and from the `cache`'s.

        `rope` has the rows of `rope_cache` for the positions in `x`; the first is `cache.length`.
        """
        q, k, v = self.project(x, rope)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        n_queries, n_keys = q.shape[2], k.shape[2]
        # A single query is the newest and may see every key. As many queries as keys are the plain
        # case, for which the kernel needs no mask. What is left is a chunk behind a cache.
        plain = n_queries == n_keys
        mask = None if plain or n_queries == 1 else causal_mask(n_queries, n_keys, q.device)
        heads = F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=plain, enable_gqa=self.n_kv_heads < self.n_heads
        )
        return self.out(heads.transpose(1, 2).flatten(2))  # (B, T, H D) -> (B, T, C)
