"""Alignment: from a model that continues text to one that answers, and answers as we would like.

In the order of the chapter: a chat format that nobody can forge, fine-tuning on the answers alone
(all weights, or LoRA's few), learning from preferences (a reward model, then DPO without one), and
learning from rewards (GRPO).

The ids of a batch, the mask of the tokens that the assistant has to produce and the
log-probabilities of the tokens all have shape (B, T) and line up: column t of each speaks of token
t. The one shift by one of the whole chapter is inside `token_logps`.

Shapes: B conversations, T time, V vocabulary, C = d_model, P prompts, S samples for each.
Log-probabilities and losses are in nats.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ch02_tokenization.tokenizer import CONTROL_TOKENS, BPETokenizer
from ch04_model.model import GPT
from ch06_alignment.lora import LoRALinear, add_lora, merge_lora

__all__ = [
    "CONTROL_TOKENS",
    "format_chat",
    "response_mask",
    "pad_batch",
    "token_logps",
    "sequence_logps",
    "sft_loss",
    "LoRALinear",
    "add_lora",
    "merge_lora",
    "RewardModel",
    "preference_loss",
    "implicit_reward",
    "dpo_loss",
    "group_advantages",
    "grpo_loss",
]

END_OF_TEXT, USER, ASSISTANT, END = CONTROL_TOKENS

# In float32 exp overflows from 88.73 on. A ratio beyond exp(20) counts as a constant: no gradient
# comes from it, neither to lower a bad token's nor to bring back what has left the reference.
_MAX_LOG_RATIO = 20.0


# Conversations


def format_chat(messages: list[dict[str, str]], tokenizer: BPETokenizer) -> list[int]:
    """The ids of a conversation; after a user's message they end where the assistant begins.

    `[{"role": "user", "content": "Hi"}]` becomes the tokens

        <|endoftext|> <|user|> Hi <|end|> <|assistant|>

    Contents are encoded with no special token allowed. A user who types `<|end|>` gets the tokens
    that spell it, as for any other word, never the one token that ends a turn.

    Raises:
        ValueError: without messages, unless the roles are user, assistant, user, ... in turn, or
            for a tokenizer trained without `CONTROL_TOKENS`.
    """
    control = _control_ids(tokenizer)
    if not messages:
        raise ValueError("got 0 messages: a conversation needs at least 1, from the user")
    ids = [control[END_OF_TEXT]]
    for i, message in enumerate(messages):
        role, token = (("user", USER), ("assistant", ASSISTANT))[i % 2]
        if message["role"] != role:
            raise ValueError(
                f"message {i} is from {message['role']!r} where {role!r} is due:"
                " the user begins, then the two take turns"
            )
        ids += [control[token], *tokenizer.encode(message["content"]), control[END]]
    return ids if role == "assistant" else [*ids, control[ASSISTANT]]


def _control_ids(tokenizer: BPETokenizer) -> dict[str, int]:
    missing = [token for token in CONTROL_TOKENS if token not in tokenizer.special_ids]
    if missing:
        raise ValueError(
            f"the tokenizer has no {', '.join(missing)}:"
            " train it with train_bpe(texts, vocab_size, special_tokens=CONTROL_TOKENS)"
        )
    return tokenizer.special_ids


def response_mask(ids: list[int], tokenizer: BPETokenizer) -> list[bool]:
    """Which of `ids` the assistant has to produce: its words, and the `<|end|>` after them.

        ids   <|endoftext|> <|user|>  Hi  <|end|> <|assistant|> Hello <|end|>
        mask        -           -     -      -          -         x      x

    `<|assistant|>` is given to the model, so it is not marked. The `<|end|>` of an answer is: a
    model that never learns to produce it never stops talking.
    """
    control = _control_ids(tokenizer)
    mask, answering = [], False
    for token in ids:
        mask.append(answering)
        if token == control[ASSISTANT]:
            answering = True
        elif token == control[END]:
            answering = False
    return mask


def pad_batch(
    conversations: list[tuple[list[int], list[bool]]],
) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Conversations of many lengths, each (ids, mask), as one batch filled up on the right.

    The filling has id 0 and is masked out. Attention looks only to the left, so no token sees it.

    Raises:
        ValueError: without conversations, for a mask that is not as long as its ids, or for one
            that marks nothing, as when a conversation was cut off before its answer.
    """
    if not conversations:
        raise ValueError("got 0 conversations: a batch needs at least 1")
    for i, (ids, mask) in enumerate(conversations):
        if len(ids) != len(mask):
            raise ValueError(f"conversation {i} has {len(ids)} ids but a mask of {len(mask)}")
        if not any(mask):
            raise ValueError(f"the mask of conversation {i} marks 0 of {len(ids)}: leave it out")
    ids = pad_sequence([torch.tensor(ids) for ids, _ in conversations], batch_first=True)
    mask = pad_sequence([torch.tensor(mask) for _, mask in conversations], batch_first=True)
    return ids, mask


def _check_alike(**tensors: Tensor) -> None:
    """Raise a ValueError unless all have one shape: torch would stretch the smaller ones."""
    if len({(t.shape, t.device) for t in tensors.values()}) > 1:
        told = (f"{name} {tuple(t.shape)} on {t.device}" for name, t in tensors.items())
        raise ValueError(f"they must have the same shape and device: {', '.join(told)}")


def _check_mask(ids: Tensor, mask: Tensor) -> None:
    """Raise a ValueError unless `mask` is True or False for each of `ids`."""
    _check_alike(ids=ids, mask=mask)
    if mask.dtype != torch.bool:  # numbers would pick rows, not mark tokens
        raise ValueError(f"the mask must hold True and False, not {mask.dtype}")


# Supervised fine-tuning


def token_logps(model: nn.Module, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Column t: the log-probability of token t after all tokens before it.

    The logits at position t - 1 predict token t. Nothing predicts the first token: column 0 is 0.
    """
    logps = model(ids)[:, :-1].log_softmax(dim=-1)  # (B, T-1, V)
    logps = logps.gather(-1, ids[:, 1:, None]).squeeze(-1)  # (B, T-1)
    return F.pad(logps, (1, 0))  # (B, T)


def sequence_logps(
    model: nn.Module, ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B"]:
    """The log-probability of each response: the sum over its tokens, not their mean."""
    _check_mask(ids, mask)
    return token_logps(model, ids).masked_fill(~mask, 0.0).sum(dim=1)


def sft_loss(
    model: nn.Module, ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy over the response tokens of a batch, in nats per token.

    It is the loss of pretraining on fewer targets. Each response token of the batch counts the
    same, whichever conversation it is in; prompts and padding do not count.

    Source: Touvron et al. (2023), "Llama 2", section 3.1: the user's tokens carry no loss.
    """
    _check_mask(ids, mask)
    return -token_logps(model, ids)[mask].mean()


# Preferences


class RewardModel(nn.Module):
    """A GPT that ends in one number, how good a response is, in place of V logits.

    The new head starts at zero: until the first step every response is worth the same. `body` is
    trained along with it, so pass a copy of a model that is still needed.

    Source: Ouyang et al. (2022), "Training language models to follow instructions with human
        feedback", section 3.5.
    """

    def __init__(self, body: GPT):
        super().__init__()
        self.body = body
        self.head = nn.Linear(body.config.d_model, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B"]:
        """The reward of each response, read at its last token, which alone has seen it all."""
        _check_mask(ids, mask)
        B, T = ids.shape
        last = (mask * torch.arange(T, device=mask.device)).argmax(dim=1)  # (B,)
        hidden = self.body.hidden_states(ids)[torch.arange(B), last]  # (B, C)
        return self.head(hidden).squeeze(-1)  # (B,)


def preference_loss(
    chosen_rewards: Float[Tensor, "B"], rejected_rewards: Float[Tensor, "B"]
) -> Float[Tensor, ""]:
    """How surprised the Bradley-Terry model is that the chosen one won: -log σ(chosen - rejected).

    Two equal rewards call the contest a coin toss and cost log 2 = 0.693 nats.

    Source: Bradley and Terry (1952); as a loss, Rafailov et al. (2023), equation 2.
    """
    _check_alike(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    return -F.logsigmoid(chosen_rewards - rejected_rewards).mean()


def implicit_reward(
    policy_logps: Float[Tensor, "B"], ref_logps: Float[Tensor, "B"], beta: float
) -> Float[Tensor, "B"]:
    """The reward that makes a policy the best one near its reference: β log (π(y|x) / π_ref(y|x)).

    A term that depends on the prompt x alone is left out: it cancels between two responses to x.

    Source: Rafailov et al. (2023), equation 5 without β log Z(x).
    """
    _check_alike(policy_logps=policy_logps, ref_logps=ref_logps)
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta is {beta}, must be at least 0 and finite")
    return beta * (policy_logps - ref_logps)


def dpo_loss(
    policy_chosen_logps: Float[Tensor, "B"],
    policy_rejected_logps: Float[Tensor, "B"],
    ref_chosen_logps: Float[Tensor, "B"],
    ref_rejected_logps: Float[Tensor, "B"],
    beta: float,
) -> Float[Tensor, ""]:
    """Direct preference optimisation: the preference loss of the policy's own implicit rewards.

    For a chosen response w and a rejected one l, averaged over the pairs:
    -log σ(β log (π(w|x) / π_ref(w|x)) - β log (π(l|x) / π_ref(l|x))). Log-probabilities come from
    `sequence_logps`. The smaller `beta`, the farther the policy may move from the reference.

    Source: Rafailov et al. (2023), "Direct Preference Optimization", equation 7.
    """
    return preference_loss(
        implicit_reward(policy_chosen_logps, ref_chosen_logps, beta),
        implicit_reward(policy_rejected_logps, ref_rejected_logps, beta),
    )


# Rewards


def group_advantages(
    rewards: Float[Tensor, "P S"], normalize_std: bool = True, eps: float = 1e-6
) -> Float[Tensor, "P S"]:
    """How much better a sample is than the average one for its prompt: (r - mean) / (std + eps).

    The standard deviation divides by S - 1. Without `normalize_std` the result is r - mean, as Dr.
    GRPO proposes: dividing gives most weight to the prompts whose rewards differ least.

    Raises:
        ValueError: for fewer than 2 samples of a prompt, which leave nothing to compare with.

    Source: Shao et al. (2024), "DeepSeekMath", section 4.1.2; for Dr. GRPO, Liu et al. (2025),
        "Understanding R1-Zero-Like Training", section 3.
    """
    n_samples = rewards.shape[1]
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps is {eps}, must be at least 0 and finite")
    if n_samples < 2:
        raise ValueError(f"got {n_samples} samples per prompt: a group needs at least 2")
    # Seen from the first sample; else rounding in the mean makes equal rewards slightly unequal.
    rewards = rewards - rewards[:, :1]
    advantages = rewards - rewards.mean(dim=1, keepdim=True)
    return advantages / (rewards.std(dim=1, keepdim=True) + eps) if normalize_std else advantages


def grpo_loss(
    logps: Float[Tensor, "B T"],
    old_logps: Float[Tensor, "B T"],
    ref_logps: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B"],
    mask: Bool[Tensor, "B T"],
    clip: float,
    beta: float,
) -> Float[Tensor, ""]:
    """Group relative policy optimisation: likelier good responses, in small steps from a reference.

    `logps` come from the policy in training, `old_logps` from the policy as it was when it wrote
    the responses, `ref_logps` from the reference, all by `token_logps`. With ρ = π / π_old and the
    advantage A of its response, a token earns min(ρ A, clamp(ρ, 1 - clip, 1 + clip) A). With
    q = π_ref / π it pays beta (q - log q - 1): never negative, and while π = π_old an unbiased
    estimate of KL(π ‖ π_ref). The loss is minus the mean over the tokens of each response, averaged
    over the responses. A log ratio above 20 counts as 20, lest the exponential overflow; it then
    gives no gradient.

    Source: Shao et al. (2024), equations 3 and 4; the clip is from Schulman et al. (2017),
        "Proximal Policy Optimization", equation 7.
    """
    _check_alike(logps=logps, old_logps=old_logps, ref_logps=ref_logps)
    _check_mask(logps, mask)
    _check_alike(advantages=advantages, rows=logps[:, 0])
    if not (0 <= clip < math.inf and 0 <= beta < math.inf):
        raise ValueError(f"clip {clip} and beta {beta} must be at least 0 and finite")
    log_ratio = (logps - old_logps).clamp(max=_MAX_LOG_RATIO)
    log_ref_ratio = (ref_logps - logps).clamp(max=_MAX_LOG_RATIO)
    ratio, advantage = log_ratio.exp(), advantages[:, None]
    earned = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    paid = beta * (torch.expm1(log_ref_ratio) - log_ref_ratio)
    per_token = (earned - paid).masked_fill(~mask, 0.0)  # (B, T)
    return -(per_token.sum(dim=1) / mask.sum(dim=1)).mean()
