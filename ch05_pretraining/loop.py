"""Pretraining: from a model that guesses to one that predicts, and how far from the limit it ends.

`train` is the loop. Losses are in nats per token throughout.

Started by `torchrun`, the same loop trains in parallel: every process holds the whole model and
takes its share of each batch. The windows of a step depend on the seed and the step alone, so a run
sees the same text if it is cut into micro-batches, spread over processes, or stopped and resumed.

Shapes: B batch, T time, V vocabulary, N ids in the stream, S texts.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int, Int64, Integer
from torch import Tensor, nn
from tqdm.auto import tqdm

from ch05_pretraining.checkpoint import load_checkpoint, save_checkpoint
from ch05_pretraining.config import TrainConfig, learning_rate
from ch05_pretraining.evaluation import IGNORED, check_stream, evaluate
from ch05_pretraining.optimizers import clip_grad_norm, make_optimizer
from ch05_pretraining.tokens import get_batch

__all__ = ["cross_entropy", "perplexity", "bits_per_byte", "train", "processes"]

DrawBatch = Callable[[torch.Generator], tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]]


def cross_entropy(
    logits: Float[Tensor, "*N V"],
    targets: Int[Tensor, "*N"],
    count: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """The mean of -log p(target), in nats; a target of -100 does not count.

    The sum is divided by the targets that count, or by `count`, for a part of a batch.

    log p(target) is the target's logit minus the log of the sum of exp(logit) over the vocabulary.
    `logsumexp` takes the largest logit out first, so that no exponential overflows.

    Raises:
        ValueError: if there is not one row of logits for each target.
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"logits {tuple(logits.shape)} do not fit targets {tuple(targets.shape)}")
    counted = targets != IGNORED
    target_logits = logits.gather(-1, targets.where(counted, 0).unsqueeze(-1)).squeeze(-1)
    losses = logits.logsumexp(dim=-1) - target_logits
    return losses.where(counted, 0).sum() / (counted.sum() if count is None else count)


def perplexity(nats_per_token: float) -> float:
    """The number of equally likely tokens that would be as hard to guess.

    >>> round(perplexity(math.log(50)))
    50
    """
    return math.exp(nats_per_token)


def bits_per_byte(total_nats: float, n_bytes: int) -> float:
    """The loss of a whole text over its length in bytes: comparable whatever the tokenizer.

    `total_nats` is nats per token times the number of tokens predicted.

    Raises:
        ValueError: if `n_bytes` is less than 1.
    """
    if n_bytes < 1:
        raise ValueError(f"bits per byte of {n_bytes} bytes: at least 1 needed")
    return total_nats / math.log(2) / n_bytes


def train(
    model: nn.Module,
    data: Integer[Tensor | np.ndarray, "N"] | DrawBatch,
    config: TrainConfig,
    *,
    starts: Int[Tensor, "S"] | None = None,
    val_ids: Integer[Tensor | np.ndarray, "M"] | None = None,
    val_starts: Int[Tensor, "R"] | None = None,
    floor: float | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
) -> list[dict]:
    """Train `model` in place on windows of `data`; return a row for each step.

    `data` is a stream of ids, from which `get_batch` draws windows (that begin at `starts`, if
    given). Or it is a function that draws a batch, (inputs, targets), with a generator.

    A row holds "step" (how many are done), "tokens" (seen so far), "loss" (of this step's batch),
    "val_loss" (of all of `val_ids`, every `eval_every` steps and after the last, else None) and
    "seconds" (of training so far). The progress bar shows how far the loss is above `floor`, in
    nats per token.

    If the file `checkpoint` exists, the run continues from it, to the very weights that it would
    have reached uninterrupted on the same `data`: the file knows the configurations, not the text.
    It is written every `checkpoint_seconds`, at the end and on Ctrl-C. Under torchrun all processes
    must see it, and all are given the same `data`.

    Raises:
        ValueError: if the text does not fit the model, or the checkpoint the configurations.
        FloatingPointError: if a gradient overflows; the last checkpoint stays as it is.
    """
    draw = data
    if not callable(data):
        check_stream(data, config.context_length, model)
        draw = partial(draw_windows, data, config, starts)
    if val_ids is not None:
        check_stream(val_ids, config.context_length, model)
    run = _Run(model, config, checkpoint)
    run.save()  # at once, so that a path that cannot be written costs no training
    saved = time.monotonic()
    try:
        with tqdm(total=config.steps, initial=run.step, unit="step", disable=run.rank > 0) as bar:
            run.validate(val_ids, val_starts)  # in case that Ctrl-C came in the middle of it
            while run.step < config.steps:
                run.advance(draw)
                run.validate(val_ids, val_starts)
                run.report(bar, floor)
                if time.monotonic() - saved > checkpoint_seconds:
                    run.save()
                    saved = time.monotonic()
    except KeyboardInterrupt:
        run.save()
        raise
    run.save()
    return run.history


class _Run:
    """A run under way: what a checkpoint holds, and what takes it a step further."""

    def __init__(self, model: nn.Module, config: TrainConfig, checkpoint: str | Path | None):
        self.model, self.config, self.checkpoint = model, config, checkpoint
        self.rank, self.n_processes = processes()
        if config.batch_size % (config.accumulation * self.n_processes):
            raise ValueError(
                f"batch_size {config.batch_size} is no multiple of accumulation "
                f"{config.accumulation} times {self.n_processes} processes"
            )
        self.device = next(model.parameters()).device
        precision = [str(config.dtype(self.device)).removeprefix("torch.")]
        if self.n_processes > 1:  # all begin as the first: with its weights, and its measurement
            dist.broadcast_object_list(precision, src=0)
            for p in model.parameters():
                dist.broadcast(p.data, src=0)
        self.optimizers = make_optimizer(model, replace(config, precision=precision[0]))
        self.autocast = torch.autocast(
            self.device.type, torch.bfloat16, enabled=precision[0] == "bfloat16"
        )
        self.step, self.history, self.whole = 0, [], True
        if checkpoint is not None and Path(checkpoint).exists():
            self.step, self.history = load_checkpoint(checkpoint, model, self.optimizers, config)

    def advance(self, draw: DrawBatch) -> None:
        """Take one step and write its row."""
        began = time.monotonic()
        self.model.train()
        inputs, targets = self.share(draw)
        loss = self.gradients(inputs, targets)
        self.whole = False  # Ctrl-C from here on would find some weights moved and others not
        self.move()
        self.step += 1
        before = self.history[-1] if self.history else {"tokens": 0, "seconds": 0.0}
        self.history.append(
            {
                "step": self.step,
                "tokens": before["tokens"] + inputs.numel() * self.n_processes,
                "loss": loss,
                "val_loss": None,
                "seconds": before["seconds"] + time.monotonic() - began,
            }
        )
        self.whole = True

    def share(self, draw: DrawBatch) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]:
        """This process's part of the step's windows."""
        # Both numbers go into 32 bits: torch's CPU generator ignores all higher bits of a seed.
        seed = (
            np.random.SeedSequence(self.config.seed, spawn_key=(self.step,))
            .generate_state(1)
            .item()
        )
        generator = torch.Generator().manual_seed(seed)
        inputs, targets = draw(generator)
        mine = slice(self.rank, None, self.n_processes)
        return inputs[mine].to(self.device), targets[mine].to(self.device)

    def gradients(self, inputs: Int64[Tensor, "B T"], targets: Int64[Tensor, "B T"]) -> float:
        """Leave the gradient of the step's mean loss in every parameter; return that loss."""
        n = self.config.accumulation
        # Every part is divided by the same number: parts may differ in how many targets count.
        count = (targets != IGNORED).sum().float()
        if self.n_processes > 1:
            _average([count], self.n_processes)
        mean_loss = torch.zeros((), device=self.device)
        self.model.zero_grad()
        for some_inputs, some_targets in zip(inputs.chunk(n), targets.chunk(n), strict=True):
            with self.autocast:
                logits = self.model(some_inputs)
            loss = cross_entropy(logits.float(), some_targets, count)
            loss.backward()
            mean_loss += loss.detach()
        if self.n_processes > 1:
            grads = [p.grad for p in self.model.parameters() if p.grad is not None]
            _average([mean_loss, *grads], self.n_processes)
        return mean_loss.item()

    def move(self) -> None:
        """Clip the gradient and let every optimizer take its step."""
        norm = clip_grad_norm(self.model.parameters(), self.config.clip_norm)
        if not norm.isfinite():
            raise FloatingPointError(
                f"the gradient of step {self.step + 1} has norm {norm.item()}: "
                "lower the learning rates, or compute in precision='float32'"
            )
        for optimizer in self.optimizers:
            optimizer.lr = learning_rate(self.step, self.config, optimizer.peak_lr)
            optimizer.step()

    def validate(self, ids: Tensor | np.ndarray | None, starts: Tensor | None) -> None:
        """Add the loss on `ids` to the last row when it is due; every process does the same."""
        due = self.step % self.config.eval_every == 0 or self.step == self.config.steps
        if ids is not None and due and self.history and self.history[-1]["val_loss"] is None:
            with self.autocast:
                loss = evaluate(self.model, ids, self.config.context_length, starts=starts)
            self.history[-1]["val_loss"] = loss

    def report(self, bar: tqdm, floor: float | None) -> None:
        """Bring the progress bar up to date."""
        row = self.history[-1]
        before = self.history[-2] if self.step > 1 else {"tokens": 0, "seconds": 0.0}
        seconds = max(row["seconds"] - before["seconds"], 1e-9)
        speed = (row["tokens"] - before["tokens"]) / seconds
        distance = "" if floor is None else f" (floor {row['loss'] - floor:+.3f})"
        bar.set_postfix_str(
            f"loss {row['loss']:.3f}{distance}, {speed:,.0f} tokens/s", refresh=False
        )
        bar.update()

    def save(self) -> None:
        """Write the checkpoint, unless the weights are half moved."""
        if self.checkpoint is not None and self.rank == 0 and self.whole:
            save_checkpoint(
                self.checkpoint, self.model, self.optimizers, self.config, self.step, self.history
            )


def draw_windows(
    ids: Tensor | np.ndarray,
    config: TrainConfig,
    starts: Tensor | None,
    generator: torch.Generator,
) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]:
    """A batch as the configuration would have it."""
    return get_batch(ids, config.batch_size, config.context_length, generator, starts)


def processes() -> tuple[int, int]:
    """The rank of this process and how many there are; under torchrun, after joining them."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        dist.init_process_group()
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _average(tensors: list[Tensor], n_processes: int) -> None:
    """Replace each tensor by its mean over the processes, all in one message."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    parts = (flat / n_processes).split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))
