"""Writing with a language model: from logits to a distribution, from a distribution to tokens.

Shapes: B batch, T time, V vocabulary.

Sources: Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration" (arXiv:1904.09751);
Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling" (arXiv:2407.01082).
"""

from collections.abc import Collection, Iterator
from copy import deepcopy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["next_token_probabilities", "generate", "stream"]

LONG = 64  # new tokens, from which on rearranging the weights pays


def next_token_probabilities(
    logits: Float[Tensor, "B V"],
    temperature: float | int = 1.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    min_p: float | int | None = None,
) -> Float[Tensor, "B V"]:
    """The distribution to draw from: softmax(logits / temperature), with its tail cut off.

    `top_k` keeps the k likeliest tokens and those tied with the last of them; then `top_p` the
    likeliest that just reach this probability together; then `min_p` those at least this fraction
    as likely as the likeliest. At temperature 0 the likeliest token has it all.

    Raises: ValueError for a number out of its range, or when the largest logit is not finite.
    Source: Holtzman et al. 2019, section 3.1 (top_p); Nguyen et al. 2024, section 3 (min_p).
    """
    _check_sampling(temperature, top_k, top_p, min_p)
    best, index = logits.float().max(dim=-1, keepdim=True)
    if not best.isfinite().all():
        raise ValueError(f"the largest logit of each row must be finite, not {best[:, 0].tolist()}")
    if temperature == 0:
        return torch.zeros_like(logits, dtype=torch.float32).scatter(-1, index, 1.0)
    # Relative to the best, so that dividing by almost 0 gives 0 and -inf, never inf. A temperature
    # that float32 rounds to 0 would give NaN; long before, at 1e-30, it makes no difference.
    probs = ((logits.float() - best) / max(temperature, 1e-30)).softmax(-1)
    if top_k is not None and top_k < probs.shape[-1]:
        probs = _keep(probs, probs >= probs.topk(top_k).values[:, -1:])
    if top_p is not None:
        ascending, order = probs.sort(dim=-1)
        kept = ascending.cumsum(-1) > 1 - top_p  # cut while what is cut off is at most 1 - top_p
        kept[:, -1] = True  # rounding must not take the likeliest
        probs = _keep(probs, kept.gather(-1, order.argsort(-1)))
    if min_p is not None:
        probs = _keep(probs, probs >= min_p * probs.amax(-1, keepdim=True))
    return probs


def _keep(probs: Tensor, kept: Tensor) -> Tensor:
    probs = probs.where(kept, 0.0)
    return probs / probs.sum(-1, keepdim=True)


def _check_sampling(temperature, top_k, top_p, min_p) -> None:
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be at least 0 (greedy) and finite, not {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, not {top_p}")
    if min_p is not None and not 0 <= min_p <= 1:
        raise ValueError(f"min_p must be from 0 to 1, not {min_p}")


def generate(
    model: nn.Module,
    ids: Int[Tensor, "B T"],
    max_new_tokens: int,
    *,
    temperature: float | int = 1.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    min_p: float | int | None = None,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
) -> Int[Tensor, "B S"]:
    """The prompts in `ids`, each followed by what `stream` yields for it."""
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    rest = {"stop_ids": stop_ids, "generator": generator}
    new = stream(model, ids, max_new_tokens, **sampling, **rest)
    return torch.cat([ids, *(tokens[:, None] for tokens in new)], dim=1)


def stream(
    model: nn.Module,
    ids: Int[Tensor, "B T"],
    max_new_tokens: int,
    *,
    temperature: float | int = 1.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    min_p: float | int | None = None,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
) -> Iterator[Int[Tensor, "B"]]:
    """Continue the prompts in `ids`, which are equally long, by one token each at a time.

    A row that draws one of `stop_ids` repeats it from then on, and when all rows have, the stream
    ends. When the context is full, the model starts over from its last context_length // 2 tokens,
    so that all but a few steps read one token.

    Raises: ValueError for an empty prompt, one beyond the context, or a number out of its range.
    """
    context_length = model.config.context_length
    if not 1 <= ids.shape[1] <= context_length:
        raise ValueError(
            f"the prompt has {ids.shape[1]} tokens, but must have from 1 to {context_length}, "
            "the length of the context"
        )
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, not {max_new_tokens}")
    filters = (temperature, top_k, top_p, min_p)
    _check_sampling(*filters)
    return _stream(model, ids, max_new_tokens, filters, stop_ids, generator)


def _stream(model, ids, max_new_tokens, filters, stop_ids, generator) -> Iterator[Tensor]:
    context_length = model.config.context_length
    if len(ids) == 1 and max_new_tokens >= LONG and ids.device.type == "cpu":
        model = _by_columns(model)
    stops = torch.tensor(list(stop_ids), dtype=ids.dtype, device=ids.device)
    stopped = torch.zeros_like(ids[:, 0], dtype=torch.bool)
    cache, unread, so_far = model.new_cache(len(ids)), ids, [ids]
    for _ in range(max_new_tokens):
        if cache.length + unread.shape[1] > context_length:
            unread = torch.cat(so_far, dim=1)[:, -max(1, context_length // 2) :]
            so_far = [unread]
            cache.truncate(0)
        tokens = _next_tokens(model, unread, cache, filters, generator).clone()
        if len(stops):
            tokens = torch.where(stopped, unread[:, -1], tokens)  # the stop id once more
            stopped = stopped | (tokens[:, None] == stops).any(dim=1)
        unread = tokens[:, None]
        so_far.append(unread)
        yield tokens
        if len(stops) and stopped.all():
            return


def _by_columns(model: nn.Module) -> nn.Module:
    """The same model, with its wide matrices stored by columns, in memory of their own.

    Times one vector, a matrix stored by rows makes a short dot product of each, with a sum at its
    end; stored by columns it makes long additions, which processors do faster: 1.5 times the speed,
    measured for 768 x 256. Shapes and values stay as they are.
    """
    rearranged = {}
    for weights in model.parameters():
        wide = weights.ndim == 2 and len(weights) > weights.shape[1]
        stored = weights.detach().T.contiguous().T if wide else weights.detach()
        rearranged[id(weights)] = nn.Parameter(stored, requires_grad=False)
    return deepcopy(model, rearranged)  # what is in the second argument is taken from there


# Inference mode is around a step: around the loop, the caller would be in it after each `yield`.
# What is made in it cannot be trained on, hence the clone above.
@torch.inference_mode()
def _next_tokens(model, ids, cache, filters, generator) -> Tensor:
    logits = model.head(model.hidden_states(ids, cache)[:, -1])  # (B, V), of the last position
    probs = next_token_probabilities(logits, *filters)
    if filters[0] == 0:
        return probs.argmax(-1)
    return torch.multinomial(probs, 1, generator=generator)[:, 0]
