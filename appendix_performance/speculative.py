"""Speculative decoding: a cheap draft guesses several tokens, and the target checks all at once.

What comes out follows the target's distribution exactly, whatever the draft is. A good draft only
makes it faster: the target then reads its weights once for several tokens.

Shapes: S the text so far, N drafted tokens, V vocabulary.

Sources: Leviathan et al. 2022, "Fast inference from transformers via speculative decoding"
(arXiv:2211.17192); Chen et al. 2023, "Accelerating large language model decoding with speculative
sampling" (arXiv:2302.01318).
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ch04_model.generation import next_token_probabilities

__all__ = [
    "Drafts",
    "ModelDraft",
    "NGramDraft",
    "Tally",
    "expected_speedup",
    "expected_tokens",
    "residual",
    "speculative_generate",
    "verify",
]


@dataclass
class Tally:
    """What a run of `speculative_generate` did, added up over its rounds."""

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    looked_at: int = 0  # drafts that were accepted or rejected, not those after a rejected one

    @property
    def acceptance(self) -> float:
        """The share of the drafts looked at that the target accepted."""
        return self.accepted / max(1, self.looked_at)


@dataclass(frozen=True)
class Drafts:
    """Guessed tokens, and the distribution that each was drawn from; None if none was drawn."""

    tokens: Int[Tensor, "N"]
    probs: Float[Tensor, "N V"] | None = None


class ModelDraft:
    """Drafts by a smaller model with the same vocabulary, which keeps a cache of its own."""

    def __init__(self, model: nn.Module):
        self.model, self.cache, self.start = model, model.new_cache(1), 0

    def propose(
        self, ids: Int[Tensor, "S"], n: int, sampling: dict, generator: torch.Generator | None
    ) -> Drafts:
        """Continue `ids` by `n` tokens, reading only what the cache does not hold yet."""
        longest = self.model.config.context_length
        if self.start + longest < len(ids) + n:  # the context is full: keep the last half of it
            self.start = max(self.start, len(ids) - max(1, longest // 2))
            self.cache.truncate(0)
        n = min(n, longest - (len(ids) - self.start))
        tokens, probs = [], []
        unread = ids[None, self.start + self.cache.length :]
        for _ in range(n):
            logits = self.model.head(self.model.hidden_states(unread, self.cache)[:, -1])
            if sampling["temperature"] == 0:
                unread = logits.argmax(-1, keepdim=True)
            else:
                probs.append(next_token_probabilities(logits, **sampling))
                unread = torch.multinomial(probs[-1], 1, generator=generator)
            tokens.append(unread)
        drafted = torch.cat(tokens, dim=1)[0] if tokens else ids[:0]
        return Drafts(drafted, torch.cat(probs) if probs else None)

    def keep(self, length: int) -> None:
        """Forget what was read beyond the first `length` tokens of the text."""
        if length < self.start or length == 0:
            self.start = length = 0
        self.cache.truncate(min(self.cache.length, length - self.start))


class NGramDraft:
    """Drafts without a model: what followed when the last few tokens stood in the text before.

    The longest match from `longest` tokens down to one counts, and of several the latest.

    Source: Saxena 2023, "Prompt lookup decoding"; the idea is as old as Lempel and Ziv 1977.
    """

    def __init__(self, longest: int = 3):
        self.longest = longest
        self.keep(0)

    def propose(
        self, ids: Int[Tensor, "S"], n: int, sampling: dict, generator: torch.Generator | None
    ) -> Drafts:
        """Up to `n` tokens, none if the last token is new to the text."""
        text = ids.tolist()
        for end in range(
            self.read, len(text)
        ):  # an n-gram that ends before `end`, and what is there
            for size in range(1, self.longest + 1):
                if size <= end:
                    self.seen[tuple(text[end - size : end])] = end
        self.read = len(text)
        for size in range(min(self.longest, len(text)), 0, -1):
            at = self.seen.get(tuple(text[-size:]))
            if at is not None:
                return Drafts(ids[at : at + n].clone())
        return Drafts(ids[:0])

    def keep(self, length: int) -> None:
        """Start afresh when the text is another one; what was accepted is never taken back."""
        if length == 0:
            self.seen: dict[tuple, int] = {}
            self.read = 1


def residual(p: Float[Tensor, "V"], q: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
    """The distribution to draw from after a rejection: what p has in excess of q, made to sum to 1.

    Source: Leviathan et al. 2022, section 2.3.
    """
    excess = (p - q).clamp(min=0)
    total = excess.sum()
    return excess / total if total > 0 else p  # p = q: nothing is rejected, but for rounding


def verify(
    p: Float[Tensor, "M V"], drafts: Drafts, generator: torch.Generator | None = None
) -> tuple[int, Int[Tensor, ""]]:
    """How many drafts are accepted, and the token that follows the last of these.

    Row i of `p`, of which there is one more than drafts, is the target's distribution of draft i.
    A draft x from q is accepted with probability min(1, p(x) / q(x)). The first that is not is
    replaced by a token from the residual; after the last comes a token from the last row.

    Source: Leviathan et al. 2022, algorithm 1.
    """
    tokens, q = drafts.tokens, drafts.probs
    n = len(tokens)
    rows = torch.arange(n)
    ratio = p[rows, tokens] if q is None else p[rows, tokens] / q[rows, tokens]
    rejected = (torch.rand(n, generator=generator) >= ratio).nonzero()
    if len(rejected) == 0:
        return n, torch.multinomial(p[n], 1, generator=generator)[0]
    k = int(rejected[0])
    if q is None:
        excess = p[k].clone()
        excess[tokens[k]] = 0.0
    else:
        excess = residual(p[k], q[k])
    return k, torch.multinomial(excess, 1, generator=generator)[0]


def _verify_greedy(best: Int[Tensor, "M"], drafts: Drafts) -> tuple[int, Int[Tensor, ""]]:
    """`verify` at temperature 0, where p has one token: accept while the draft is that token."""
    n = len(drafts.tokens)
    same = (drafts.tokens == best[:n]).long().cumprod(0)
    k = int(same.sum())
    return k, best[k]


@torch.inference_mode()
def speculative_generate(
    target: nn.Module,
    draft: nn.Module | ModelDraft | NGramDraft,
    ids: Int[Tensor, "B S"],
    max_new_tokens: int,
    n_draft: int = 6,
    *,
    temperature: float | int = 1.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    min_p: float | int | None = None,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
    tally: Tally | None = None,
) -> Int[Tensor, "B R"]:
    """The prompt and what the target makes of it, as `generate` would, in fewer steps.

    Every new token has the distribution that `generate` draws it from; at temperature 0 the tokens
    are the same, but where rounding decides between two. `draft` is a model with the same
    vocabulary, or anything that can `propose` and `keep`. `tally` is told what happened. When the
    context is full, the target starts over from its last half, as in `generate`.

    Raises: ValueError for another batch size than 1, an empty prompt or one beyond the context, a
    draft of another vocabulary, or a number out of its range.
    """
    _check(target, draft, ids, max_new_tokens, n_draft)
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    drafter = ModelDraft(draft) if isinstance(draft, nn.Module) else draft
    drafter.keep(0)
    tally = Tally() if tally is None else tally
    longest, stops = target.config.context_length, set(stop_ids)
    text, end = torch.empty(ids.shape[1] + max_new_tokens, dtype=ids.dtype), ids.shape[1]
    text[:end] = ids[0]
    cache, start = target.new_cache(1), 0
    while end < len(text):
        if end - start > longest:
            start = end - max(1, longest // 2)
            cache.truncate(0)
        n = min(n_draft, len(text) - end - 1, longest - (end - start))
        drafts = drafter.propose(text[:end], n, sampling, generator)
        n = len(drafts.tokens)
        unread = torch.cat((text[start + cache.length : end], drafts.tokens))[None]
        logits = target.head(target.hidden_states(unread, cache)[0, -n - 1 :])  # (n + 1, V)
        if temperature == 0:
            k, token = _verify_greedy(logits.argmax(-1), drafts)
        else:
            k, token = verify(next_token_probabilities(logits, **sampling), drafts, generator)
        new = [*drafts.tokens[:k].tolist(), int(token)]
        tally.rounds, tally.drafted = tally.rounds + 1, tally.drafted + n
        tally.accepted, tally.looked_at = tally.accepted + k, tally.looked_at + min(n, k + 1)
        stop = next((i + 1 for i, token in enumerate(new) if token in stops), None)
        text[end : end + len(new)] = torch.tensor(new, dtype=ids.dtype)
        if stop is not None:
            return text[None, : end + stop].clone()
        cache.truncate(end + k - start)  # the last token, and all drafts after it, are unread
        drafter.keep(end + k)
        end += len(new)
    return text[None]


def _check(target, draft, ids, max_new_tokens, n_draft) -> None:
    longest = target.config.context_length
    if len(ids) != 1:
        raise ValueError(f"speculative decoding takes 1 sequence at a time, not {len(ids)}")
    if not 1 <= ids.shape[1] <= longest:
        raise ValueError(
            f"the prompt has {ids.shape[1]} tokens, but must have from 1 to {longest}, "
            "the length of the context"
        )
    if max_new_tokens < 0 or n_draft < 1:
        raise ValueError(
            f"max_new_tokens {max_new_tokens} must be at least 0, and n_draft {n_draft} at least 1"
        )
    model = getattr(draft, "model", draft)
    if isinstance(model, nn.Module) and model.config.vocab_size != target.config.vocab_size:
        raise ValueError(
            f"the draft's vocabulary has {model.config.vocab_size} tokens, the target's "
            f"{target.config.vocab_size}: they must be the same"
        )


def expected_tokens(acceptance: float, n_draft: int) -> float:
    """Tokens a round if each draft is accepted with this probability: 1 + a + a² + ... + a^n.

    Source: Leviathan et al. 2022, equation 1.
    """
    return sum(acceptance**i for i in range(n_draft + 1))


def expected_speedup(
    acceptance: float, n_draft: int, draft_cost: float, check_cost: float = 1.0
) -> float:
    """How many times as fast as one token at a time.

    Costs are in steps of the target: that of drafting one token, and that of checking them all,
    which Leviathan et al. take as 1.

    Source: Leviathan et al. 2022, theorem 3.8.
    """
    return expected_tokens(acceptance, n_draft) / (n_draft * draft_cost + check_cost)
