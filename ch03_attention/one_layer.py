"""A language model of one attention layer, and what it takes to train and to question it.

A token's vector, plus what attention gathers from the tokens before it, is read off as scores for
the next token. Without the attention that is a bigram model: it sees the last token alone. So all
that the model knows beyond a bigram, its heads have looked up.

    rows = encode_texts(texts, tokenizer)
    model = OneLayer(tokenizer.vocab_size)
    losses = train(model, rows, n_steps=600)
    bits_per_byte(model, held_out_rows, n_bytes)

Shapes: B batch, T time, V vocabulary, H heads.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (attention-only
models of one layer, and the bigram inside them).
"""

import math
import random
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ch02_tokenization.tokenizer import END_OF_TEXT, BPETokenizer
from ch03_attention.attention import (
    MultiHeadAttention,
    attention_weights,
    causal_mask,
    rope_cache,
)

__all__ = [
    "Bigram",
    "OneLayer",
    "accuracy",
    "bits_per_byte",
    "encode_texts",
    "head_weights",
    "pad_rows",
    "train",
]

IGNORED = -100  # as a target, "predict nothing here": torch's convention
Logits = Callable[[Tensor], Tensor]  # ids (B, T) -> scores of the next token (B, T, V)


class OneLayer(nn.Module):
    """Embedding, one layer of rotary attention beside it, and a linear reading of the sum."""

    def __init__(
        self, vocab_size: int, d_model: int = 128, n_heads: int = 4, context_length: int = 512
    ):
        super().__init__()
        if vocab_size < 1 or context_length < 1:
            raise ValueError(f"{vocab_size} tokens and {context_length} positions: 1 each at least")
        self.embedding = nn.Embedding(vocab_size, d_model)  # torch draws it from N(0, 1)
        # Queries and keys of fixed length keep the scores in range at high learning rates.
        self.attention = MultiHeadAttention(d_model, n_heads, qk_norm=nn.RMSNorm)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        nn.init.zeros_(self.head.weight)  # so the first loss is log V, and no step is wasted on it
        cos, sin = rope_cache(self.attention.head_dim, context_length)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def rope(self, n: int) -> tuple[Float[Tensor, "T D"], Float[Tensor, "T D"]]:
        """The rotary rows of the first `n` positions.

        Raises: ValueError when there are fewer.
        """
        if n > len(self.cos):
            raise ValueError(f"{n} tokens are too many for a context of {len(self.cos)}")
        return self.cos[:n], self.sin[:n]

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """The scores of the next token, at every position."""
        x = self.embedding(ids)
        return self.head(x + self.attention(x, self.rope(ids.shape[1])))


class Bigram:
    """How often a token followed another in `rows`, as scores: the best that one token can tell.

    A pair never seen gets its share of one imaginary pair, dealt by how frequent the second is.
    """

    def __init__(self, rows: Sequence[Sequence[int]], vocab_size: int):
        counts = torch.zeros(vocab_size, vocab_size)
        for row in rows:
            ids = torch.tensor(row)
            counts.index_put_((ids[:-1], ids[1:]), torch.tensor(1.0), accumulate=True)
        frequency = (counts.sum(0) + 1) / (counts.sum() + vocab_size)
        self.log_probs = ((counts + frequency) / (counts.sum(1, keepdim=True) + 1)).log()

    def __call__(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """The scores of the next token, at every position."""
        return self.log_probs[ids]


def encode_texts(texts: Sequence[str], tokenizer: BPETokenizer) -> list[list[int]]:
    """The ids of each text between two end-of-text tokens: one to start from, one to predict."""
    encoding, end = tokenizer.to_tiktoken(), tokenizer.special_ids[END_OF_TEXT]
    return [[end, *encoding.encode_ordinary(text), end] for text in texts]


def pad_rows(
    rows: Sequence[Sequence[int]],
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Inputs and targets of a batch of rows; behind the end of a row nothing is to be predicted."""
    n = max(map(len, rows))
    ids = torch.zeros(len(rows), n, dtype=torch.long)
    targets = torch.full((len(rows), n), IGNORED)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = targets[i, : len(row)] = torch.tensor(row)
    return ids[:, :-1], targets[:, 1:]


def train(
    model: OneLayer, rows: Sequence[Sequence[int]], n_steps: int, batch_size: int = 8, seed: int = 0
) -> list[float]:
    """Adam on batches of whole texts; the loss of every step, in nats per token.

    The steps grow for a moment and then shrink to nothing. The vectors of the tokens take larger
    ones, since each is touched by few of the texts.

    Raises: ValueError when `n_steps` is below 1, or there are fewer rows than a batch has.
    """
    if n_steps < 1 or not 1 <= batch_size <= len(rows):
        raise ValueError(f"{n_steps} steps of {batch_size} from {len(rows)} rows cannot be taken")
    tables = [*model.embedding.parameters(), *model.head.parameters()]
    groups = [
        {"params": tables, "lr": 0.05},
        {"params": model.attention.parameters(), "lr": 0.01},
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 20, 1 - step / n_steps)
    )
    rng, losses = random.Random(seed), []
    for _ in range(n_steps):
        inputs, targets = pad_rows(rng.sample(rows, batch_size))
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def bits_per_byte(
    model: Logits, rows: Sequence[Sequence[int]], n_bytes: int, batch_size: int = 25
) -> float:
    """What the model pays for all tokens of `rows`, spread over the `n_bytes` of their texts.

    Raises: ValueError when `n_bytes` or `batch_size` is below 1.
    """
    if n_bytes < 1 or batch_size < 1:
        raise ValueError(f"{n_bytes} bytes in batches of {batch_size}: both must be at least 1")
    nats, by_length = 0.0, sorted(rows, key=len)  # rows of like length need little padding
    for first in range(0, len(rows), batch_size):
        inputs, targets = pad_rows(by_length[first : first + batch_size])
        logits = model(inputs)
        nats += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    return nats / math.log(2) / n_bytes


@torch.no_grad()
def accuracy(model: Logits, questions: Sequence[tuple[str, str]], tokenizer: BPETokenizer) -> float:
    """The share of questions, a beginning and the word behind it, that the likeliest token answers.

    A word of several tokens counts as found when the first of them is.
    """
    n_right = 0
    for beginning, word in questions:
        ids = encode_texts([beginning], tokenizer)[0][:-1]
        n_right += (
            int(model(torch.tensor([ids]))[0, -1].argmax()) == tokenizer.encode(" " + word)[0]
        )
    return n_right / len(questions)


@torch.no_grad()
def head_weights(model: OneLayer, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B H T T"]:
    """How much each head attends from every position to every earlier one."""
    if ids.device != model.head.weight.device:
        raise ValueError(f"the ids are on {ids.device}, the model on {model.head.weight.device}")
    n = ids.shape[1]
    q, k, _ = model.attention.project(model.embedding(ids), model.rope(n))
    return attention_weights(q, k, causal_mask(n))
