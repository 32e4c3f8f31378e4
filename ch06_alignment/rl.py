"""Learning from marks: the loops around the losses of `alignment.py`.

The order is always the same. The policy answers some prompts several times, every answer gets a
mark, and a loss makes the better answers likelier. A frozen copy of the policy as it was at first,
the reference, tells how far it has gone.

Shapes: B replies, T time, P prompts, S samples for each, N pairs.

Sources: Rafailov et al. (2023), arXiv:2305.18290 (DPO); Shao et al. (2024), arXiv:2402.03300
(GRPO).
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ch02_tokenization.tokenizer import BPETokenizer
from ch04_model.model import GPT
from ch05_pretraining.optimizers import AdamW, clip_grad_norm
from ch06_alignment.alignment import (
    RewardModel,
    dpo_loss,
    group_advantages,
    grpo_loss,
    preference_loss,
    sequence_logps,
)
from ch06_alignment.instructions import Task
from ch06_alignment.replies import Replies, each_once, mark, sample

__all__ = ["preference_pairs", "reward_by", "train_dpo", "train_grpo", "train_reward"]

Pairs = tuple[Int[Tensor, "N"], Int[Tensor, "N"]]
Reward = Callable[[Replies, Sequence[Task]], Float[Tensor, "P S"]]


def preference_pairs(marks: Float[Tensor, "P S"], per_prompt: int = 2) -> Pairs:
    """Rows of replies, (chosen, rejected): of each prompt a better reply against a worse one."""
    chosen, rejected = [], []
    for p, row in enumerate(marks):
        order = row.argsort(descending=True, stable=True).tolist()
        for better, worse in zip(order[:per_prompt], order[::-1][:per_prompt], strict=True):
            if row[better] > row[worse]:
                chosen.append(p * len(row) + better)
                rejected.append(p * len(row) + worse)
    return torch.tensor(chosen, dtype=torch.int64), torch.tensor(rejected, dtype=torch.int64)


class Steps:
    """AdamW at a rate that rises over three steps and then falls in a straight line."""

    def __init__(self, model: nn.Module, lr: float, n_steps: int):
        self.optimizer = AdamW(model.parameters(), lr, (0.9, 0.95), weight_decay=0.0)
        self.lr, self.n_steps, self.done = lr, n_steps, 0

    def take(self, loss: Float[Tensor, ""]) -> float:
        """One step down this loss, which is returned."""
        self.optimizer.zero_grad()
        loss.backward()
        clip_grad_norm(self.optimizer.state, 1.0)
        rise, fall = (self.done + 1) / 3, 1.25 * (1 - self.done / self.n_steps)
        self.optimizer.lr = self.lr * min(1.0, rise, fall)
        self.optimizer.step()
        self.done += 1
        return loss.item()


def _batches(n: int, batch_size: int, epochs: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(n, generator=generator) for _ in range(epochs)]
    return [some for order in orders for some in order.split(batch_size)]


def train_reward(
    model: RewardModel,
    replies: Replies,
    pairs: Pairs,
    lr: float = 1e-3,
    batch_size: int = 16,
    epochs: int = 2,
    seed: int = 0,
) -> list[float]:
    """Train a reward model on pairs of replies, in place; returned is the loss of each step."""
    batches = _batches(len(pairs[0]), batch_size, epochs, seed)
    steps, losses = Steps(model, lr, len(batches)), []
    for some in batches:
        both = replies.take(torch.cat([pairs[0][some], pairs[1][some]]))
        chosen, rejected = model(both.ids, both.mask).chunk(2)
        losses.append(steps.take(preference_loss(chosen, rejected)))
    return losses


def reward_by(model: RewardModel) -> Reward:
    """A reward that a model gives, as `train_grpo` wants it."""

    @torch.no_grad()
    def reward(replies: Replies, tasks: Sequence[Task]) -> Float[Tensor, "P S"]:
        return model(replies.ids, replies.mask).view(len(tasks), -1)

    return reward


def train_dpo(
    policy: GPT,
    replies: Replies,
    pairs: Pairs,
    beta: float = 0.1,
    lr: float = 3e-4,
    batch_size: int = 16,
    epochs: int = 1,
    seed: int = 0,
    sft_weight: float = 0.0,
) -> list[dict[str, float]]:
    """Train `policy` on pairs of replies, in place; the history has a row a step.

    "chosen" and "rejected" are the gains in log-probability since the beginning, in nats a reply.
    `sft_weight` times the nats of the chosen replies are added to the loss, as Pang et al. (2024),
    "Iterative reasoning preference optimization" (arXiv:2404.19733), do per token: so they gain.
    """
    with torch.no_grad():
        parts = [replies.take(rows) for rows in torch.arange(len(replies.ids)).split(32)]
        before = torch.cat([sequence_logps(policy, part.ids, part.mask) for part in parts])
    batches, history = _batches(len(pairs[0]), batch_size, epochs, seed), []
    steps = Steps(policy, lr, len(batches))
    for some in batches:
        chosen, rejected = pairs[0][some], pairs[1][some]
        both = replies.take(torch.cat([chosen, rejected]))
        now = sequence_logps(policy, both.ids, both.mask).chunk(2)
        loss = dpo_loss(*now, before[chosen], before[rejected], beta)
        steps.take(loss - sft_weight * now[0].mean())
        gains = (now[0] - before[chosen]).detach(), (now[1] - before[rejected]).detach()
        accuracy = (gains[0] > gains[1]).float().mean().item()
        means = {"chosen": gains[0].mean().item(), "rejected": gains[1].mean().item()}
        history.append({"loss": loss.item(), "accuracy": accuracy} | means)
    return history


def train_grpo(
    policy: GPT,
    reference: GPT,
    tokenizer: BPETokenizer,
    draw_tasks: Callable[[torch.Generator], Sequence[Task]],
    reward: Reward = mark,
    *,
    rounds: int,
    n_samples: int = 8,
    updates: int = 2,
    lr: float = 3e-4,
    clip: float = 0.2,
    beta: float = 0.02,
    longest: int = 32,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Train `policy` on rewards for replies of its own, in place; the history has a row a round.

    Each round's replies serve for several updates: from the second on the ratio of the policies is
    no longer 1, and the clip can act.
    """
    generator, history = torch.Generator().manual_seed(seed), []
    steps = Steps(policy, lr, rounds * updates)
    for _ in range(rounds):
        tasks = draw_tasks(generator)
        replies = sample(
            *(policy, tokenizer, [task.prompt for task in tasks], n_samples),
            **{"longest": longest, "generator": generator},
        )
        rewards = reward(replies, tasks)
        advantages = group_advantages(rewards).flatten()
        with torch.no_grad():
            old = each_once(policy, replies.ids)
            distant = each_once(reference, replies.ids)
        for _ in range(updates):
            now = each_once(policy, replies.ids)
            steps.take(grpo_loss(now, old, distant, advantages, replies.mask, clip, beta))
        log_ratio = ((old - distant) * replies.mask).sum(dim=1)
        history.append(
            {"reward": rewards.mean().item(), "right": mark(replies, tasks).mean().item()}
            | {"length": replies.lengths.float().mean().item(), "kl": log_ratio.mean().item()}
            | {"entropy": -(old * replies.mask).sum(dim=1).mean().item()}
        )
    return history
