"""Replies that a model writes itself: samples, their marks, and how far they are from a reference.

Shapes: B replies, T time, P prompts, S samples for each. KL and entropy are in nats per reply.
"""

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ch02_tokenization.tokenizer import BPETokenizer
from ch04_model.model import GPT, next_token_probabilities
from ch06_alignment.alignment import END, format_chat, token_logps
from ch06_alignment.instructions import Task

__all__ = ["Replies", "drift", "each_once", "frozen", "mark", "sample", "same_length"]


@dataclass(frozen=True)
class Replies:
    """Prompts with replies, filled up on the right; `mask` marks the replies' tokens."""

    ids: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    texts: list[str]

    @property
    def lengths(self) -> Int[Tensor, "B"]:
        """Tokens a reply, with the one that ends it."""
        return self.mask.sum(dim=1)

    def take(self, rows: Int[Tensor, "N"]) -> "Replies":
        """Some of them, in this order, no wider than they need."""
        width = int(self.mask[rows].nonzero()[:, 1].max()) + 1
        texts = [self.texts[i] for i in rows.tolist()]
        return Replies(self.ids[rows, :width], self.mask[rows, :width], texts)


def frozen(model: GPT) -> GPT:
    """A copy that stays as it is: a reference."""
    return copy.deepcopy(model).requires_grad_(False).eval()


def same_length(tasks: Sequence[Task], tokenizer: BPETokenizer, n: int) -> list[list[Task]]:
    """Groups of `n` tasks whose prompts have equally many tokens; what is left over is left out."""
    if n < 1:
        raise ValueError(f"groups of {n} tasks: at least 1 needed")
    by_length = defaultdict(list)
    for task in tasks:
        by_length[len(_prompt(task.prompt, tokenizer))].append(task)
    return [
        alike[i : i + n]
        for _, alike in sorted(by_length.items())
        for i in range(0, len(alike) - n + 1, n)
    ]


def _prompt(text: str, tokenizer: BPETokenizer) -> list[int]:
    return format_chat([{"role": "user", "content": text}], tokenizer)


def sample(
    model: GPT,
    tokenizer: BPETokenizer,
    prompts: Sequence[str],
    n_samples: int = 1,
    temperature: float | int = 1.0,
    longest: int = 32,
    generator: torch.Generator | None = None,
) -> Replies:
    """`n_samples` replies to each prompt, those of one prompt next to each other.

    A reply of more than `longest` tokens is cut off there, without the token that ends it.
    """
    by_length = defaultdict(list)
    for i, prompt in enumerate(prompts):
        ids = _prompt(prompt, tokenizer)
        by_length[len(ids)].append((i, ids))
    rows: dict[int, tuple[list[int], list[int]]] = {}
    end = tokenizer.special_ids[END]
    for _, group in sorted(by_length.items()):
        start = torch.tensor([ids for _, ids in group])
        new = _continue(model, start, n_samples, temperature, longest, end, generator).tolist()
        for j, reply in enumerate(new):
            i, ids = group[j // n_samples]
            stop = reply.index(end) + 1 if end in reply else len(reply)
            rows[i * n_samples + j % n_samples] = ids, reply[:stop]
    return _gather([rows[i] for i in range(len(rows))], tokenizer)


@torch.no_grad()
def _continue(
    model: GPT,
    start: Int[Tensor, "P T"],
    n_samples: int,
    temperature: float | int,
    longest: int,
    end: int,
    generator: torch.Generator | None,
) -> Int[Tensor, "B N"]:
    """As `generate`, but a prompt is read once for all the samples that continue it."""
    read, cache = model.new_cache(len(start)), model.new_cache(len(start) * n_samples)
    logits = model(start, read)[:, -1].repeat_interleave(n_samples, dim=0)
    for layer in range(model.config.n_layers):
        kv = (x[layer, :, :, : read.length] for x in (read.keys, read.values))
        cache.append(layer, *(x.repeat_interleave(n_samples, dim=0) for x in kv))
    new, stopped = [], torch.zeros(len(logits), dtype=torch.bool)
    for _ in range(min(longest, model.config.context_length - start.shape[1])):
        probs = next_token_probabilities(logits, temperature)
        drawn = torch.multinomial(probs, 1, generator=generator)  # (B, 1)
        new.append(drawn.masked_fill(stopped[:, None], end))
        stopped |= drawn[:, 0] == end
        if stopped.all() or cache.length == model.config.context_length:
            break
        logits = model(new[-1], cache)[:, -1]
    return torch.cat(new, dim=1)


def _gather(rows: list[tuple[list[int], list[int]]], tokenizer: BPETokenizer) -> Replies:
    width, end = max(len(ids) + len(new) for ids, new in rows), tokenizer.special_ids[END]
    ids, mask = torch.zeros(2, len(rows), width, dtype=torch.int64)
    for i, (prompt, new) in enumerate(rows):
        ids[i, : len(prompt) + len(new)] = torch.tensor(prompt + new)
        mask[i, len(prompt) : len(prompt) + len(new)] = 1
    texts = [tokenizer.decode([t for t in new if t != end]) for _, new in rows]
    return Replies(ids, mask.bool(), texts)


def mark(replies: Replies, tasks: Sequence[Task]) -> Float[Tensor, "P S"]:
    """1 where a reply does what its task asks, else 0: `parse` and the facts decide."""
    n_samples = len(replies.texts) // len(tasks)
    right = [tasks[i // n_samples].is_right(text) for i, text in enumerate(replies.texts)]
    return torch.tensor(right, dtype=torch.float32).view(len(tasks), n_samples)


def each_once(model: nn.Module, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """`token_logps`, computed once for rows that are equal: short replies often are."""
    rows, place = ids.unique(dim=0, return_inverse=True)
    return token_logps(model, rows)[place]


@torch.no_grad()
def drift(
    policy: nn.Module, reference: nn.Module, replies: Replies, batch_size: int = 32
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
    """KL(policy ‖ reference) and the policy's entropy, summed over the tokens of each reply.

    At every token the two whole distributions are compared, not only what was drawn. If the replies
    are the policy's own, at temperature 1, the means estimate both quantities for whole replies.
    """
    kl, entropy = [], []
    for rows in torch.arange(len(replies.ids)).split(batch_size):
        part = replies.take(rows)
        p, q = (m(part.ids)[:, :-1].float().log_softmax(dim=-1) for m in (policy, reference))
        mask = part.mask[:, 1:]
        kl.append(((p.exp() * (p - q)).sum(dim=-1) * mask).sum(dim=1))
        entropy.append((-(p.exp() * p).sum(dim=-1) * mask).sum(dim=1))
    return torch.cat(kl), torch.cat(entropy)
