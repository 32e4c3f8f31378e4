"""Small experiments for this chapter: a tiny model, a hundred steps, and one thing changed.

`fit` is the training loop without all that a long run needs (no checkpoint, no progress bar, one
process). It uses the very parts that `loop.train` uses.

Shapes: B batch, T time, N ids in the stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ch01_overview.corpus import Story, stories
from ch02_tokenization.tokenizer import END_OF_TEXT, BPETokenizer, train_bpe
from ch04_model.model import GPT, GPTConfig
from ch05_pretraining.config import TrainConfig, learning_rate
from ch05_pretraining.loop import DrawBatch, cross_entropy
from ch05_pretraining.optimizers import Optimizer, clip_grad_norm, make_optimizer
from ch05_pretraining.tokens import get_batch

__all__ = ["SmallData", "encode", "fit", "small_config", "small_data", "small_model"]


@dataclass(frozen=True)
class SmallData:
    """Stories as ids, each between two end-of-text ids; `floor` in nats per held-out token."""

    tokenizer: BPETokenizer
    texts: list[str]
    held_out: list[Story]
    train: Int[Tensor, "N"]
    val: Int[Tensor, "M"]
    floor: float


def small_data(n: int = 2_000, n_val: int = 60, vocab_size: int = 512) -> SmallData:
    """`n` stories to train on, and others to test on."""
    texts, held_out = [story.text for story in stories(n, seed=1)], stories(n_val, seed=0)
    tokenizer = train_bpe(texts[:1_000], vocab_size, (END_OF_TEXT,))
    val = encode([story.text for story in held_out], tokenizer)
    floor = -sum(story.log_prob for story in held_out) / (len(val) - 1)
    return SmallData(tokenizer, texts, held_out, encode(texts, tokenizer), val, floor)


def encode(texts: Sequence[str], tokenizer: BPETokenizer) -> Int[Tensor, "N"]:
    """EOT text EOT text EOT."""
    end, engine = tokenizer.special_ids[END_OF_TEXT], tokenizer.to_tiktoken()
    encoded = (engine.encode_ordinary(text) for text in texts)
    return torch.tensor([end] + [i for ids in encoded for i in (*ids, end)])


def small_model(vocab_size: int = 512, seed: int = 0, **sizes: int) -> GPT:
    """Two layers of width 64, unless `sizes` say otherwise."""
    torch.manual_seed(seed)
    shape = {"context_length": 64, "n_layers": 2, "n_heads": 4, "d_model": 64, "tied": False}
    return GPT(GPTConfig.qwen3(vocab_size=vocab_size, **shape | sizes))


def small_config(steps: int = 100, **changes: object) -> TrainConfig:
    """Eight windows of 64 tokens a step."""
    usual = {"batch_size": 8, "context_length": 64, "adamw_lr": 0.02, "muon_lr": 0.03, "decay": 0.5}
    return TrainConfig(
        steps=steps, **usual | {"weight_decay": 0.0, "precision": "float32"} | changes
    )


def fit(
    model: nn.Module,
    data: Int[Tensor, "N"] | DrawBatch,
    config: TrainConfig,
    optimizers: Sequence[Optimizer] | None = None,
) -> list[float]:
    """Train `model` in place, and return the loss of each step in nats per token.

    `data` is a stream of ids, or a function that draws a batch with a generator.
    """
    optimizers = make_optimizer(model, config) if optimizers is None else optimizers
    losses, generator = [], torch.Generator().manual_seed(config.seed)
    sizes = config.batch_size, config.context_length
    for step in range(config.steps):
        inputs, targets = data(generator) if callable(data) else get_batch(data, *sizes, generator)
        loss = cross_entropy(model(inputs), targets)  # forward
        model.zero_grad()
        loss.backward()  # backward
        clip_grad_norm(model.parameters(), config.clip_norm)
        for optimizer in optimizers:
            optimizer.lr = learning_rate(step, config, optimizer.peak_lr)
            optimizer.step()  # step
        losses.append(loss.item())
    return losses
