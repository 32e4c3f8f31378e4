"""How good replies are, counted exactly where that is possible, and how sure one can be of a count.

A question of the story world has one right answer. So how often a model gives it need not be
sampled: it is the probability of that answer, the product of its tokens' probabilities.

Shapes: N tasks, B conversations, T time. Log-probabilities are in nats.

Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference", for
    the interval.
"""

import math
import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ch01_overview.corpus import Story
from ch02_tokenization.tokenizer import END_OF_TEXT, BPETokenizer
from ch06_alignment.alignment import format_chat, pad_batch, response_mask
from ch06_alignment.instructions import Task, messages

__all__ = [
    "Rows",
    "as_chat",
    "as_text",
    "calibration_error",
    "chance_right",
    "greedy_right",
    "last_sentence_of_holder",
    "mean_and_error",
    "wilson",
]

Rows = list[tuple[list[int], list[bool]]]  # ids, and a mask of those that are asked for


def as_chat(tasks: Sequence[Task], tokenizer: BPETokenizer) -> Rows:
    """Each task with its right answer, in the chat format; the answer is marked."""
    talks = [format_chat(messages([task]), tokenizer) for task in tasks]
    return [(ids, response_mask(ids, tokenizer)) for ids in talks]


def as_text(pairs: Sequence[tuple[str, str]], tokenizer: BPETokenizer) -> Rows:
    """(text, continuation) as the plain text of pretraining; the continuation is marked."""
    rows = []
    for text, continuation in pairs:
        before = [tokenizer.special_ids[END_OF_TEXT], *tokenizer.encode(text)]
        after = tokenizer.encode(continuation)
        rows.append((before + after, [False] * len(before) + [True] * len(after)))
    return rows


def _logits(model: nn.Module, rows: Rows, batch_size: int = 16):
    for i in range(0, len(rows), batch_size):
        ids, mask = pad_batch(rows[i : i + batch_size])
        yield model(ids)[:, :-1].float(), ids[:, 1:], mask[:, 1:]


@torch.no_grad()
def chance_right(
    model: nn.Module, rows: Rows, temperature: float | int = 1.0
) -> Float[Tensor, "N"]:
    """The probability that a sample at this temperature is the marked answer, token for token.

    The same words could also be written with other tokens; a trained model hardly ever does.

    Raises:
        ValueError: if the temperature is not above 0 and finite.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"the temperature is {temperature}, must be above 0 and finite")
    chances = []
    for logits, targets, mask in _logits(model, rows):
        logps = (logits / temperature).log_softmax(dim=-1)
        logps = logps.gather(-1, targets[..., None]).squeeze(-1)
        chances.append(logps.masked_fill(~mask, 0.0).sum(dim=1).exp())
    return torch.cat(chances)


@torch.no_grad()
def greedy_right(model: nn.Module, rows: Rows) -> Float[Tensor, "N"]:
    """1 where always taking the likeliest token gives the marked answer, else 0."""
    right = []
    for logits, targets, mask in _logits(model, rows):
        right.append(((logits.argmax(dim=-1) == targets) | ~mask).all(dim=1).float())
    return torch.cat(right)


def last_sentence_of_holder(story: Story) -> tuple[str, str]:
    """A tale cut just before it says who takes the thing home, and that name.

    >>> last_sentence_of_holder(tale)
    ("... That night", " Mia")
    """
    took = rf" {story.facts.holder} (took|went home|carried)(?! to)"
    place = [match.start() for match in re.finditer(took, story.text)][-1]
    return story.text[:place], f" {story.facts.holder}"


def wilson(n_right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% confidence interval of a share that was counted as `n_right` of `n`.

    Unlike mean ± 1.96 standard errors it is never empty, and never leaves 0 to 1.

    Raises:
        ValueError: unless 0 <= n_right <= n, n >= 1 and z is above 0.
    """
    if not 0 <= n_right <= n or n < 1 or not 0 < z < math.inf:
        raise ValueError(f"{n_right} right of {n}, z {z}: no interval can be made of that")
    share, spread = n_right / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def calibration_error(
    sure: Float[Tensor, "N"], right: Float[Tensor, "N"], n_bins: int = 10
) -> float:
    """How far what a model gives its replies is from the share that is right, bin by bin.

    Replies are sorted into `n_bins` by what the model gives them; of each bin counts the difference
    of the means, without its sign and by its share of the replies.

    Raises:
        ValueError: if there is no reply, or no bin.

    Source: Naeini et al. (2015), "Obtaining well calibrated probabilities using Bayesian binning".
    """
    if len(sure) == 0 or n_bins < 1:
        raise ValueError(f"got {len(sure)} replies and {n_bins} bins, must be at least 1 of each")
    bins = (sure * n_bins).long().clamp(max=n_bins - 1)
    gaps = [(sure[bins == i] - right[bins == i]).sum().abs().item() for i in range(n_bins)]
    return sum(gaps) / len(sure)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean of a few runs and its standard error, the deviation dividing by n - 1."""
    values = torch.as_tensor(values, dtype=torch.float64)
    if len(values) < 2:
        raise ValueError(f"got {len(values)} values: an error needs at least 2")
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()
