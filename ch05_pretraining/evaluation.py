"""The loss on text that was not trained on, every token of it counted once.

Shapes: B batch, T time, V vocabulary, N ids in the stream, S texts.
"""

from bisect import bisect_right

import numpy as np
import torch
from jaxtyping import Int, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from ch05_pretraining.tokens import check_vocabulary, take

__all__ = ["IGNORED", "check_stream", "evaluate"]

IGNORED = -100  # as a target, "predict nothing here": torch's convention


@torch.no_grad()
def evaluate(
    model: nn.Module,
    ids: Integer[Tensor | np.ndarray, "N"],
    context_length: int | None = None,
    batch_size: int = 16,
    starts: Int[Tensor, "S"] | None = None,
) -> float:
    """Nats per token over the whole stream, each of its N - 1 predicted tokens counted once.

    Without `starts` windows of `context_length`, by default the model's, follow each other, and the
    first tokens of each lack what came before. With `starts` (ascending) windows end where a text
    does, so that every token is predicted from the whole of its text so far, and the loss can be
    held against an entropy. Only a text longer than a window is cut.

    Raises:
        ValueError: if there is nothing to predict, an id is outside the vocabulary, the windows do
            not fit the model's context, or `starts` do not ascend from 0.
    """
    if context_length is None:
        context_length = model.config.context_length
    if batch_size < 1:
        raise ValueError(f"batches of {batch_size} windows: at least 1 needed")
    if starts is not None and (len(starts) == 0 or starts[0] != 0 or (starts.diff() <= 0).any()):
        raise ValueError("starts must ascend from 0: see document_starts")
    check_stream(ids, context_length, model)
    device, was_training = next(model.parameters()).device, model.training
    cuts = torch.tensor(_cuts(len(ids) - 1, context_length, starts))
    total = 0.0
    model.eval()
    for first in range(0, len(cuts) - 1, batch_size):
        begin, end = cuts[:-1][first : first + batch_size], cuts[1:][first : first + batch_size]
        offsets = torch.arange(int((end - begin).max()) + 1)
        positions = begin[:, None] + offsets  # (B, T + 1)
        windows = take(ids, positions.clamp(max=len(ids) - 1))
        # A shorter window is filled up with what follows it, which nothing before can see.
        targets = windows[:, 1:].where(positions[:, 1:] <= end[:, None], IGNORED).to(device)
        logits = model(windows[:, :-1].to(device)).float()  # (B, T, V)
        total += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    model.train(was_training)
    return total / int(cuts[-1] - cuts[0])


def _cuts(n: int, context_length: int, starts: Tensor | None) -> list[int]:
    """Where windows over n predictions meet: at the last start in reach, if there is one."""
    texts = [0] if starts is None else starts.tolist()
    cuts = [texts[0]]
    while cuts[-1] < n:
        end = min(cuts[-1] + context_length, n)
        start = texts[bisect_right(texts, end) - 1]
        cuts.append(start if cuts[-1] < start and end < n else end)
    return cuts


def check_stream(
    ids: Integer[Tensor | np.ndarray, "N"], context_length: int, model: nn.Module
) -> None:
    """Raise a ValueError unless the model can predict this stream in windows of this length."""
    longest = model.config.context_length
    if not 1 <= context_length <= longest:
        raise ValueError(
            f"windows of {context_length} tokens, where the model takes 1 to {longest}"
        )
    if len(ids) < 2:
        raise ValueError(f"a stream of {len(ids)} tokens leaves nothing to predict: 2 are needed")
    check_vocabulary(ids, model.config.vocab_size)
