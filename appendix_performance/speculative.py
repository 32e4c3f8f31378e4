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
from torch.nn import functional as F

from ch04_model.generation import next_token_probabilities, stream

__all__ = [
    "Drafts",
    "ModelDraft",
    "NGramDraft",
    "Tally",
    "Window",
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

    def add(self, drafted: int, accepted: int) -> None:
        """Note a round."""
        self.rounds, self.drafted = self.rounds + 1, self.drafted + drafted
        self.accepted += accepted
        self.looked_at += min(drafted, accepted + 1)

    @property
    def acceptance(self) -> float:
        """The share of the drafts looked at that the target accepted."""
        return self.accepted / max(1, self.looked_at)


@dataclass(frozen=True)
class Drafts:
    """Guessed tokens, and the distribution that each was drawn from; None if none was drawn."""

    tokens: Int[Tensor, "N"]
    probs: Float[Tensor, "N V"] | None = None


class Window:
    """A model that reads a growing text, every token once, and can forget the text's end again.

    When the context is full it starts over from its last half, as `generate` does.
    """

    def __init__(self, model: nn.Module):
        self.model, self.cache, self.start = model, model.new_cache(1), 0

    def room(self, length: int) -> int:
        """How many tokens fit behind the first `length` of the text."""
        longest = self.model.config.context_length
        if length - self.start > longest:
            self.start = length - max(1, longest // 2)
            self.cache.truncate(0)
        return longest - (length - self.start)

    def read(self, text: Int[Tensor, "S"], n: int) -> Float[Tensor, "n V"]:
        """The scores for what follows each of the last `n` tokens of the text."""
        unread = text[None, self.start + self.cache.length :]
        return self.model.head(self.model.hidden_states(unread, self.cache)[0, -n:])

    def keep(self, length: int) -> None:
        """Forget what was read beyond the first `length` tokens of the text."""
        if length < self.start:
            self.start = length = 0  # another text
        self.cache.truncate(min(self.cache.length, length - self.start))


class ModelDraft(Window):
    """Drafts by a smaller model with the same vocabulary."""

    def propose(
        self, text: Int[Tensor, "S"], n: int, sampling: dict, generator: torch.Generator | None
    ) -> Drafts:
        """Continue the text by `n` tokens, or by as many as the context has room for."""
        start, probs = len(text), []
        for _ in range(min(n, self.room(start))):
            logits = self.read(text, 1)
            if sampling["temperature"] == 0:
                token = logits.argmax(-1)
            else:
                probs.append(next_token_probabilities(logits, **sampling))
                token = torch.multinomial(probs[-1], 1, generator=generator)[0]
            text = torch.cat((text, token))
        return Drafts(text[start:], torch.cat(probs) if probs else None)


class NGramDraft:
    """Drafts without a model: what followed when the last few tokens stood in the text before.

    The longest match from `longest` tokens down to one counts, and of several the latest.

    Source: Saxena 2023, "Prompt lookup decoding"; the idea is as old as Lempel and Ziv 1977.
    """

    def __init__(self, longest: int = 3):
        self.longest = longest
        self.keep(0)

    def propose(
        self, text: Int[Tensor, "S"], n: int, sampling: dict, generator: torch.Generator | None
    ) -> Drafts:
        """Up to `n` tokens, none if the last token is new to the text."""
        ids = text.tolist()
        for at in range(self.read, len(ids)):  # what stands here came after these endings:
            for size in range(1, min(self.longest, at) + 1):
                self.seen[tuple(ids[at - size : at])] = at
        self.read = len(ids)
        for size in range(min(self.longest, len(ids)), 0, -1):
            at = self.seen.get(tuple(ids[-size:]))
            if at is not None:
                return Drafts(text[at : at + n])
        return Drafts(text[:0])

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
    replaced by a token from the residual; after the last comes a token from the last row. A draft
    that was not drawn counts as certain, q(x) = 1.

    Source: Leviathan et al. 2022, algorithm 1.
    """
    tokens, q = drafts.tokens, drafts.probs
    if q is None:
        q = F.one_hot(tokens, p.shape[1]).to(p.dtype)
    n, rows = len(tokens), torch.arange(len(tokens))
    ratio = p[rows, tokens] / q[rows, tokens]
    rejected = (torch.rand(n, generator=generator) >= ratio).nonzero()
    k = int(rejected[0]) if len(rejected) else n
    follows = residual(p[k], q[k]) if k < n else p[n]
    return k, torch.multinomial(follows, 1, generator=generator)[0]


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
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    stream(target, ids, max_new_tokens, **sampling)  # never asked for a token: refuses bad input
    _check(target, draft, ids, n_draft)
    drafter = ModelDraft(draft) if isinstance(draft, nn.Module) else draft
    drafter.keep(0)
    window, text, end = Window(target), ids[0].clone(), ids.shape[1] + max_new_tokens
    tally = Tally() if tally is None else tally
    while len(text) < end:
        n = min(n_draft, window.room(len(text)), end - len(text) - 1)
        drafts = drafter.propose(text, n, sampling, generator)
        logits = window.read(torch.cat((text, drafts.tokens)), len(drafts.tokens) + 1)
        k, token = verify(next_token_probabilities(logits, **sampling), drafts, generator)
        tally.add(len(drafts.tokens), k)
        new = torch.cat((drafts.tokens[:k], token[None]))
        window.keep(len(text) + k)  # the rejected drafts are forgotten; `token` is not read yet
        drafter.keep(len(text) + k)
        last = next((i for i, said in enumerate(new.tolist()) if said in stop_ids), None)
        text = torch.cat((text, new if last is None else new[: last + 1]))
        if last is not None:
            break
    return text[None]


def _check(target, draft, ids, n_draft) -> None:
    if len(ids) != 1:
        raise ValueError(f"speculative decoding takes 1 sequence at a time, not {len(ids)}")
    if n_draft < 1:
        raise ValueError(f"n_draft must be at least 1, not {n_draft}")
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
