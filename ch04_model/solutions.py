"""Reference answers to the exercises of chapter 4, and why they are right."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ch04_model.model import GPT, GPTConfig


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The mean runs over the last axis alone, which stays, with length 1, to divide its row.

    The squares are summed in float32, because float16 ends at 65,504; the result has x's dtype.
    `eps` is inside the root, so zeros stay zeros.
    """
    mean_square = x.float().square().mean(-1, keepdim=True)
    return (x.float() / (mean_square + eps).sqrt() * weight).to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """RMS norm of what is left when the mean is taken away, and a bias.

    The variance is the mean square of the deviations, divided by C and not by C - 1: it is the size
    of this row, not an estimate from a sample.
    """
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return centred / (variance + eps).sqrt() * weight + bias


def gelu_tanh(x: Tensor) -> Tensor:
    """Half of x, times 1 plus a tanh that is near the error function of x / sqrt(2)."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """torch stores a matrix as (outputs, inputs), so a row is multiplied by its transpose.

    The curve bends the gate alone. What comes up passes as it is, times the opened gate.
    """
    opened = x @ gate.T
    return (opened * torch.sigmoid(opened) * (x @ up.T)) @ down.T


def pre_norm(x: Tensor, parts: Sequence[tuple[Callable, Callable]]) -> Tensor:
    """Every part reads a normed copy of the stream as it is by then, and adds to the stream.

    `x = x + ...` makes a new tensor. `x += ...` would change the caller's.
    """
    for norm, part in parts:
        x = x + part(norm(x))
    return x


def initial_std(name: str, n_layers: int) -> float:
    """0.02, but where a block adds to the stream, and there are two such places in a block.

    2L independent additions of variance s² have variance 2L s² together; with s = 0.02 / sqrt(2L)
    that is 0.02² at any depth.
    """
    adds_to_stream = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
    return 0.02 / math.sqrt(2 * n_layers) if adds_to_stream else 0.02


def count_parameters(config: GPTConfig) -> int:
    """Matrices, then what depends on the recipe: biases, gates, norms, positions, the head.

    A bias goes with a matrix's outputs. A layer norm has two vectors, an RMS norm one. Normed
    queries and keys have a norm each, which all heads of a layer share. Rotary positions have no
    parameters, and neither has a tied head.
    """
    c = config
    vectors = 2 if c.norm == "layer" else 1
    q, kv = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    shapes = [(c.d_model, q + 2 * kv), (q, c.d_model), (c.d_model, c.d_ff), (c.d_ff, c.d_model)]
    if c.activation == "swiglu":
        shapes.append((c.d_model, c.d_ff))
    block = sum(inputs * outputs + c.bias * outputs for inputs, outputs in shapes)
    block += 2 * vectors * c.d_model + c.qk_norm * 2 * vectors * c.head_dim
    embeddings = c.vocab_size * c.d_model * (1 if c.tied else 2)
    if c.positions == "learned":
        embeddings += c.context_length * c.d_model
    return embeddings + c.n_layers * block + vectors * c.d_model


def cache_bytes(config: GPTConfig, n_tokens: int, batch_size: int, bytes_per_number: int) -> int:
    """A key and a value, for each token, each layer and each *key/value* head.

    The query heads do not count: that is what grouped-query attention saves.
    """
    per_token = 2 * config.n_layers * config.n_kv_heads * config.head_dim
    return per_token * n_tokens * batch_size * bytes_per_number


def decoding_flops(config: GPTConfig, n_before: int) -> int:
    """Two for each number of each matrix, and two products with each key and each value.

    The look-up of an embedding multiplies nothing; the head does, tied or not. Every query head
    meets all keys and values, also when several share them. The new token attends to itself too.
    """
    c = config
    qkv = c.d_model * (c.n_heads + 2 * c.n_kv_heads) * c.head_dim
    out = c.n_heads * c.head_dim * c.d_model
    wide = c.d_model * c.d_ff * (3 if c.activation == "swiglu" else 2)
    attention = 2 * 2 * c.n_heads * c.head_dim * (n_before + 1)
    return c.n_layers * (2 * (qkv + out + wide) + attention) + 2 * c.d_model * c.vocab_size


def top_p(probs: Tensor, p: float) -> Tensor:
    """A token stays as long as those before it, from the likeliest on, have not reached p.

    So the one that crosses the line is kept, and the likeliest always is, since nothing comes
    before it. The sorted answer is carried back to the old order, and made to sum to 1.
    """
    ordered, order = probs.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    kept = torch.zeros_like(probs).scatter(-1, order, ordered * (before < p))
    return kept / kept.sum(-1, keepdim=True)


def min_p(probs: Tensor, p: float) -> Tensor:
    """The bar hangs at p times each row's own maximum, so it falls where the model is unsure."""
    kept = probs * (probs >= p * probs.amax(-1, keepdim=True))
    return kept / kept.sum(-1, keepdim=True)


@torch.no_grad()
def greedy(model: GPT, ids: Tensor, n: int) -> Tensor:
    """The prompt is read once; from then on only the newest token is, and the cache has the rest.

    The last token is never read, because nothing comes after it.
    """
    cache, unread = model.new_cache(len(ids)), ids
    for _ in range(n):
        unread = model(unread, cache)[:, -1:].argmax(-1)  # (B, 1)
        ids = torch.cat((ids, unread), dim=1)
    return ids
