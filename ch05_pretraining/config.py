"""All that a training run can be told, the learning rates that follow, and the fast number type.

Sources: Hu et al. 2024, "MiniCPM" (arXiv:2404.06395), for the schedule "wsd"; Hägele et al. 2024,
"Scaling laws and compute-optimal training beyond fixed training durations" (arXiv:2405.18392), for
its straight descent; Loshchilov & Hutter 2017, "SGDR" (arXiv:1608.03983), for the cosine.
"""

import math
import time
from dataclasses import dataclass
from functools import lru_cache

import torch

__all__ = ["TrainConfig", "learning_rate", "fast_dtype"]

CHOICES = {"schedule": ("wsd", "cosine"), "precision": ("auto", "float32", "bfloat16")}


@dataclass(frozen=True)
class TrainConfig:
    """How to train, whatever the model and the text.

    Raises:
        ValueError: if a number is out of its range, or two do not go together.
    """

    steps: int
    batch_size: int = 16  # windows a step, all micro-batches and processes together
    context_length: int = 256  # tokens a window
    accumulation: int = 1  # micro-batches a step: more take less memory and change nothing else
    muon_lr: float = 0.02  # how far a step moves a matrix in each of its directions
    adamw_lr: float = 3e-3
    schedule: str = "wsd"  # or "cosine"
    warmup: float = 0.05  # share of the steps: at first the optimizers' averages are mostly noise
    decay: float = 0.4  # share of the steps, of "wsd" only
    weight_decay: float = 0.1  # of the matrices: a gain or an embedding need not be small
    betas: tuple[float, float] = (0.9, 0.95)  # AdamW's: 0.999 remembers 1000 steps, too many here
    clip_norm: float = 1.0
    precision: str = "auto"  # or "float32" or "bfloat16": "auto" takes the faster, see fast_dtype
    eval_every: int = 100  # steps
    seed: int = 0

    def __post_init__(self):
        for name in ("steps", "batch_size", "context_length", "accumulation", "eval_every"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, must be at least 1 and a whole number")
        for name in ("muon_lr", "adamw_lr", "weight_decay", "warmup", "decay", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 0 and finite")
        if not isinstance(self.seed, int):
            raise ValueError(f"seed is {self.seed!r}, must be a whole number")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}, must be two numbers from 0 to below 1")
        decay = self.decay if self.schedule == "wsd" else 0.0
        if self.warmup + decay > 1:
            raise ValueError(
                f"warmup {self.warmup} and decay {decay} are shares of the steps: 1 at most"
            )
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of accumulation {self.accumulation}"
            )
        if not self.clip_norm > 0:
            raise ValueError(
                f"clip_norm is {self.clip_norm}, must be above 0: inf turns clipping off"
            )
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}, must be one of {choices}")

    def dtype(self, device: torch.device) -> torch.dtype:
        """What matrix products on `device` are computed in."""
        if self.precision == "auto":
            return fast_dtype(device.type)
        return getattr(torch, self.precision)


def learning_rate(step: int, config: TrainConfig, peak: float = 1.0) -> float:
    """The rate of step 0, 1, ..., `config.steps` - 1: up to `peak`, and down towards zero.

    "wsd" (warm-up, stable, decay) stays at the peak until a straight descent; "cosine" bends down
    from the end of the warm-up. Both would reach zero in the step after the last.

    Source: Hu et al. 2024, section 4; Loshchilov & Hutter 2017, equation 5.
    """
    warmup, decay = round(config.warmup * config.steps), round(config.decay * config.steps)
    rise = (step + 1) / max(1, warmup)
    if config.schedule == "wsd":
        fall = (config.steps - step) / max(1, decay)
    else:
        progress = max(0, step - warmup) / max(1, config.steps - warmup)
        fall = (1 + math.cos(math.pi * progress)) / 2
    return peak * min(1.0, rise, fall)


@lru_cache
def fast_dtype(device: str) -> torch.dtype:
    """bfloat16 if a matrix product in it is clearly faster here than in float32, else float32.

    Measured, since no name tells: with matrix units for it a processor multiplies bfloat16 several
    times as fast, with vector instructions alone anything from twice to half as fast, and with
    neither tens of times slower.
    """
    size = 256 if device == "cpu" else 4096  # enough work to time, 0.1 s at the slowest
    types = torch.float32, torch.bfloat16
    squares = [torch.ones(size, size, dtype=dtype, device=device) for dtype in types]
    best = [math.inf, math.inf]
    for _ in range(8):  # in turn, so that whatever else the machine does disturbs both
        for i, x in enumerate(squares):
            start = time.perf_counter()
            (x @ x)[0, 0].item()  # .item() waits until a GPU has finished
            best[i] = min(best[i], time.perf_counter() - start)
    return torch.bfloat16 if best[0] > 1.5 * best[1] else torch.float32
