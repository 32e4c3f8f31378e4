"""Studies that take longer than a notebook may: each trains many small models and writes a JSON.

    python -m ch05_pretraining.studies sweep        # learning rates of four optimizers
    python -m ch05_pretraining.studies schedules    # how the rate changes during a run
    python -m ch05_pretraining.studies batches      # batch size against steps
    python -m ch05_pretraining.studies seeds        # how much luck there is in a loss
    python -m ch05_pretraining.studies scaling      # excess loss against parameters and tokens
    python -m ch05_pretraining.studies ablation     # the laptop recipe without one part at a time
    python -m ch05_pretraining.studies all --effort 4

`--effort` multiplies the number of steps, the files say which was used. A run of one seed, size and
rate depends on nothing else, so the numbers can be had again one by one.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from time import process_time

import torch

from ch01_overview import study
from ch01_overview.corpus import load_text, train_val_split
from ch04_model.model import GPT, GPTConfig
from ch05_pretraining.benchmark import encode_letters, encode_text
from ch05_pretraining.config import TrainConfig
from ch05_pretraining.evaluation import evaluate
from ch05_pretraining.optimizers import AdamW, Optimizer, make_optimizer
from ch05_pretraining.recipes import PRESETS
from ch05_pretraining.small import SmallData, fit, small_config, small_data, small_model

__all__ = ["OPTIMIZERS", "SGD", "load_study", "losses_by", "main"]

FOLDER = Path(__file__).with_name("studies")
SEEDS = range(3)


class SGD(Optimizer):
    """Against the gradient, with or without momentum: equal to `torch.optim.SGD`."""

    def __init__(self, params, lr: float, momentum: float = 0.0):
        super().__init__(params, lr, weight_decay=0.0)
        self.momentum = momentum

    @torch.no_grad()
    def step(self) -> None:
        """Add the gradient to the velocity, and the velocity to the place."""
        for p, state in self.state.items():
            if p.grad is not None:
                velocity = state.setdefault("velocity", torch.zeros_like(p))
                velocity.mul_(self.momentum).add_(p.grad)
                p.sub_(velocity, alpha=self.lr)


def _with_muon(model: GPT, lr: float) -> list[Optimizer]:
    return make_optimizer(model, small_config(1, muon_lr=lr))


OPTIMIZERS: dict[str, Callable[[GPT, float], list[Optimizer]]] = {
    "SGD": lambda model, lr: [SGD(model.parameters(), lr)],
    "momentum": lambda model, lr: [SGD(model.parameters(), lr, momentum=0.9)],
    "AdamW": lambda model, lr: [AdamW(model.parameters(), lr, (0.9, 0.95), weight_decay=0.0)],
    "Muon and AdamW": _with_muon,
}
RATES = {
    "SGD": (1.0, 2.0, 4.0, 8.0, 16.0),
    "momentum": (0.25, 0.5, 1.0, 2.0, 4.0),
    "AdamW": (0.005, 0.01, 0.02, 0.04, 0.08),
    "Muon and AdamW": (0.02, 0.04, 0.08, 0.16, 0.32),
}
SCHEDULES = {
    "constant": {"decay": 0.0},
    "constant, no warm-up": {"decay": 0.0, "warmup": 0.0},
    "cosine": {"schedule": "cosine"},
    "warm-up, stable, decay": {"decay": 0.4},
    "early, long decay": {"decay": 0.9},
}


def losses_by(rows: Iterable[Mapping], *keys: str) -> dict[tuple, list[float]]:
    """The losses of all seeds for each setting, which is what the rows say under `keys`."""
    found: dict[tuple, list[float]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row["loss"])
    return found


def run_small(data: SmallData, config: TrainConfig, seed: int = 0, **sizes: int) -> dict:
    """Train one model on the small corpus, and say how it went."""
    model = small_model(data.tokenizer.vocab_size, seed, **sizes)
    losses = fit(model, data.train, config)
    return {
        "parameters": sum(p.numel() for p in model.blocks.parameters()),
        "tokens": config.steps * config.batch_size * config.context_length,
        "loss": evaluate(model, data.val, config.context_length),
        "losses": [round(loss, 4) for loss in losses],
    }


def sweep(effort: float) -> Iterable[dict]:
    """Every optimizer at five rates, the same steps for all."""
    data = small_data()
    for name, lr, seed in ((n, lr, seed) for n in OPTIMIZERS for lr in RATES[n] for seed in SEEDS):
        config = small_config(round(120 * effort), seed=seed)
        model = small_model(data.tokenizer.vocab_size, seed)
        losses = fit(model, data.train, config, OPTIMIZERS[name](model, lr))
        loss = evaluate(model, data.val, 64)
        yield {"optimizer": name, "lr": lr, "seed": seed, "steps": config.steps, "loss": loss} | {
            "losses": [round(x, 4) for x in losses]
        }


def schedules(effort: float) -> Iterable[dict]:
    """Every schedule at four peak rates."""
    data, steps = small_data(), round(120 * effort)
    for name, peak, seed in product(SCHEDULES, (0.5, 1, 2, 4), SEEDS):
        rates = {"adamw_lr": 0.02 * peak, "muon_lr": 0.03 * peak}
        row = run_small(data, small_config(steps, seed=seed, **SCHEDULES[name], **rates), seed)
        yield (
            {"schedule": name, "peak": peak, "seed": seed, "steps": steps} | row | {"losses": None}
        )


def batches(effort: float) -> Iterable[dict]:
    """The same number of tokens in large or small steps, each batch at three rates.

    They lie around a rate that grows with the root of the batch.
    """
    data, n_windows = small_data(), round(1920 * effort)
    for batch_size, times, seed in product((2, 4, 8, 16, 32), (0.5, 1, 2), SEEDS):
        scale = times * (batch_size / 8) ** 0.5
        rates = {"adamw_lr": 0.02 * scale, "muon_lr": 0.03 * scale}
        config = small_config(n_windows // batch_size, batch_size=batch_size, seed=seed, **rates)
        row = run_small(data, config, seed)
        yield {"batch_size": batch_size, "times": times, "seed": seed, "steps": config.steps} | (
            row | {"losses": None}
        )


def seeds(effort: float) -> Iterable[dict]:
    """One recipe, with one seed after another for the weights and the order of the text."""
    data = small_data()
    for seed in range(6):
        config = small_config(round(100 * effort), seed=seed)
        yield {"seed": seed, "steps": config.steps} | run_small(data, config, seed)


def scaling(effort: float) -> Iterable[dict]:
    """Five widths and three lengths of training."""
    data = small_data(round(2_000 * max(1, effort)))
    for d_model in (16, 32, 64, 96, 128):
        for steps in (50, 100, 200):
            row = run_small(data, small_config(round(steps * effort)), d_model=d_model)
            yield {"d_model": d_model, "floor": data.floor} | row | {"losses": None}


GPT2_PARTS = {"norm": "layer", "activation": "gelu", "positions": "learned", "qk_norm": False}
WITHOUT: dict[str, tuple[dict, dict]] = {  # what changes in the model, and in its training
    "the recipe": ({}, {}),
    "AdamW for all instead of Muon": ({}, {"muon_lr": 0.0, "adamw_lr": 0.01}),
    "letters instead of 512 tokens": ({"vocab_size": 65}, {}),
    "GPT-2's parts instead of today's": (GPT2_PARTS, {}),
    "queries and keys not normed": ({"qk_norm": False}, {}),
    "head tied to the embedding": ({"tied": True}, {}),
    "four layers instead of two": ({"n_layers": 4}, {}),
    "a rate that does not fall": ({}, {"decay": 0.0}),
    "four times the batch": ({}, {"batch_size": 64}),
}


def ablation(effort: float) -> Iterable[dict]:
    """The laptop recipe of the benchmark without each of its parts, for the same processor time."""
    texts, preset = train_val_split(load_text("shakespeare")), PRESETS["laptop"]
    steps = max(1, round(preset.train.steps * effort))
    seconds = None
    for name, (in_model, in_training) in WITHOUT.items():
        shape, config = replace(preset.model, **in_model), replace(preset.train, **in_training)
        vocab_size = shape.vocab_size
        ids, val_ids = (encode_letters if vocab_size == 65 else encode_text)(*texts, vocab_size)
        if seconds is not None:  # the first says how long, and the others take as many steps
            probe = replace(config, steps=min(10, steps))
            steps = max(1, round(probe.steps * seconds / _ablated(shape, probe, ids)[1]))
        model, took = _ablated(shape, replace(config, steps=steps), ids)
        seconds = seconds or took
        loss = evaluate(model, val_ids) * (len(val_ids) - 1) / len(texts[1])
        yield {"what": name, "steps": steps, "seconds": round(took, 1), "loss": loss}


def _ablated(shape: GPTConfig, config: TrainConfig, ids: torch.Tensor) -> tuple[GPT, float]:
    """A model trained so, and the processor's seconds for it."""
    torch.manual_seed(config.seed)
    model = GPT(shape)
    optimizers = make_optimizer(model, config)
    if config.muon_lr == 0:
        optimizers = [AdamW(model.parameters(), config.adamw_lr, config.betas, weight_decay=0.0)]
    began = process_time()
    fit(model, ids, config, optimizers)
    return model, process_time() - began


STUDIES = {f.__name__: f for f in (sweep, schedules, batches, seeds, scaling, ablation)}


load_study = partial(study.load_study, FOLDER)
main = partial(study.run_studies, STUDIES, FOLDER, ("losses",))


if __name__ == "__main__":
    sys.exit(main())
