"""What the chapter measures: questions about stories, and lengths never trained on.

`questions` cuts stories off just before a word that only a look back can tell.

`PositionModel` is the one-layer model with its positions to choose from. It is trained on short
windows of a stream of ids and tested on long ones.

Shapes: B batch, T time, C d_model, V vocabulary, H heads, D head_dim, N ids in the stream.

Sources: Press et al. 2021, "Train Short, Test Long" (arXiv:2108.12409), for ALiBi and the question;
Vaswani et al. 2017 (arXiv:1706.03762) for learned and sinusoidal positions.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ch01_overview.corpus import Story
from ch03_attention.attention import (
    MultiHeadAttention,
    apply_rope,
    causal_mask,
    rope_cache,
    sinusoidal_positions,
)

__all__ = [
    "SCHEMES",
    "PositionModel",
    "alibi_bias",
    "loss_by_position",
    "questions",
    "train_on_windows",
]

SCHEMES = ("none", "learned", "sinusoidal", "rotary", "ALiBi")


def questions(stories: Sequence[Story]) -> dict[str, list[tuple[str, str]]]:
    """Beginnings of tales, each with the word that must come next.

    "what": the noun of the thing, where the tale names it for the last time. "who": the name of its
    holder, where the evening has come and the one to be named is the one who has the thing. "who,
    at the end": the same name, said a last time.
    """
    found = {"what": [], "who": [], "who, at the end": []}
    for story in stories:
        if story.facts.form != "tale":
            continue
        text, thing, holder = story.text, story.facts.thing, story.facts.holder
        evening = text.rfind(thing)  # the sentence that takes it home
        ends = {
            "what": evening + thing.rfind(" "),
            "who": text.rfind(f" {holder}", 0, evening),
            "who, at the end": text.rfind(f" {holder} "),
        }
        for kind, end in ends.items():
            found[kind].append((text[:end], thing.split()[-1] if kind == "what" else holder))
    return found


def alibi_bias(n_heads: int, n: int) -> Float[Tensor, "H T T"]:
    """What ALiBi adds to the scores: minus the distance, times a slope of each head's own.

    The slopes fall from 2^(-8/H) to 2^-8 by equal factors. Behind the diagonal, where distances
    would be negative, stands minus infinity: the causal mask.

    Source: Press et al. 2021, section 3.
    """
    slopes = 2.0 ** (-8.0 * torch.arange(1, n_heads + 1) / n_heads)
    distance = torch.arange(n)[:, None] - torch.arange(n)  # (T, T)
    bias = -slopes[:, None, None] * distance  # (H, T, T)
    return bias.masked_fill(~causal_mask(n), float("-inf"))


class PositionModel(nn.Module):
    """One layer of attention whose positions follow one of `SCHEMES`.

    `window` limits how many tokens a position sees, itself included; it may be set at any time.
    `causal=False` lets every position see the whole text, and `scale` takes the place of
    1 / sqrt(D): faults, kept for the bug gallery.

    Raises: ValueError for another scheme.
    """

    def __init__(
        self,
        scheme: str,
        vocab_size: int,
        context_length: int,
        d_model: int = 64,
        n_heads: int = 4,
        head_dim: int | None = None,
        qk_norm: bool = True,
        scale: float | None = None,
        causal: bool = True,
    ):
        super().__init__()
        if scheme not in SCHEMES:
            raise ValueError(f"no positions are called {scheme!r}; there are {', '.join(SCHEMES)}")
        self.scheme, self.causal, self.scale = scheme, causal, scale
        self.window: int | None = None
        self.embedding = nn.Embedding(vocab_size, d_model)
        norm = nn.RMSNorm if qk_norm else nn.Identity
        self.attention = MultiHeadAttention(d_model, n_heads, head_dim=head_dim, qk_norm=norm)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        nn.init.zeros_(self.head.weight)
        # As long as the longest test: the rows beyond the training windows stay as they were drawn.
        self.positions = nn.Parameter(0.02 * torch.randn(context_length, d_model))
        self.positions.requires_grad_(scheme == "learned")

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """The scores of the next token, at every position."""
        n, x = ids.shape[1], self.embedding(ids)
        if self.scheme == "learned":
            x = x + self.positions[:n]
        if self.scheme == "sinusoidal":
            x = x + sinusoidal_positions(n, x.shape[-1])
        q, k, v = self.attention.project(x)
        if self.scheme == "rotary":
            cos, sin = rope_cache(q.shape[-1], n)
            q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
        heads = F.scaled_dot_product_attention(q, k, v, self._mask(q), scale=self.scale)
        return self.head(x + self.attention.out(heads.transpose(1, 2).flatten(2)))

    def _mask(self, q: Float[Tensor, "B H T D"]) -> Tensor | None:
        """What may be attended to, or what is added to the scores."""
        n_heads, n = q.shape[1:3]
        mask = causal_mask(n) if self.causal else None
        if self.window is not None:
            mask = causal_mask(n).triu(1 - self.window)
        if self.scheme == "ALiBi":
            return alibi_bias(n_heads, n).masked_fill(~mask, float("-inf"))
        return mask


def train_on_windows(
    model: PositionModel, ids: Int[Tensor, "N"], length: int, n_steps: int, batch_size: int = 32
) -> list[float]:
    """Adam on windows of `length` tokens, cut anywhere in the stream, the same ones each time.

    Returns the loss of every step, in nats per token.
    """
    losses = []
    generator = torch.Generator().manual_seed(0)
    tables = [model.embedding.weight, model.head.weight, model.positions]
    groups = [
        {"params": tables, "lr": 0.03},
        {"params": model.attention.parameters(), "lr": 0.01},
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    for step in range(n_steps):
        for group, rate in zip(optimizer.param_groups, (0.03, 0.01), strict=True):
            group["lr"] = rate * min((step + 1) / 20, 1 - step / n_steps)
        starts = torch.randint(len(ids) - length, (batch_size, 1), generator=generator)
        windows = ids[starts + torch.arange(length + 1)]
        loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def loss_by_position(
    model: PositionModel, ids: Int[Tensor, "N"], length: int, batch_size: int = 50
) -> Float[Tensor, "T"]:
    """The mean loss at each position of windows of `length`, in nats per token."""
    n = (len(ids) - 1) // length
    inputs, targets = ids[: n * length].view(n, length), ids[1 : n * length + 1].view(n, length)
    total = torch.zeros(length)
    for x, y in zip(inputs.split(batch_size), targets.split(batch_size), strict=True):
        total += F.cross_entropy(model(x).transpose(1, 2), y, reduction="none").sum(0)
    return total / n
