"""A training run on disk: weights, optimizers and how far it got, in one safetensors file.

Tensors and JSON only: reading a file can never run code, as unpickling one can.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from ch01_overview.files import write_whole
from ch05_pretraining.config import TrainConfig
from ch05_pretraining.optimizers import Optimizer

__all__ = ["save_checkpoint", "load_checkpoint"]

FORMAT = "llm-book checkpoint 1"


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    config: TrainConfig,
    step: int,
    history: list[dict],
) -> None:
    """Write a run after `step` steps, with the configurations of both model and training.

    The file appears whole or not at all.
    """
    tensors = {}
    for name, p in model.named_parameters():
        tensors[f"model.{name}"] = p.detach()
        for optimizer in optimizers:
            for slot, tensor in optimizer.state.get(p, {}).items():
                tensors[f"optimizer.{name}.{slot}"] = tensor
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}

    run = {"step": step, "history": history, "train": asdict(config), "model": asdict(model.config)}
    text = json.dumps(run)
    metadata = {"format": FORMAT, "run": text, "sha256": _digest(text, tensors)}
    write_whole(path, save(tensors, metadata))


def load_checkpoint(
    path: str | Path,
    model: nn.Module,
    optimizers: Sequence[Optimizer] = (),
    config: TrainConfig | None = None,
) -> tuple[int, list[dict]]:
    """Put a run back into a model and its optimizers; return the steps it took and its history.

    Nothing is changed unless everything fits. Without `config`, any training configuration does.

    Raises:
        ValueError: if the file is no checkpoint, truncated, altered, or of another configuration.
    """
    run, tensors = _read(path)
    _check_config(path, run["model"], model.config)
    if config is not None:
        _check_config(path, run["train"], config)
    named = dict(model.named_parameters())
    _check_shapes(path, tensors, named)

    memory = {p: state for optimizer in optimizers for p, state in optimizer.state.items()}
    stored = {k.split(".", 1)[1].rpartition(".")[0] for k in tensors if k.startswith("optimizer.")}
    trained = {name for name, p in named.items() if p in memory}
    if optimizers and run["step"] and stored != trained:
        raise ValueError(
            f"{path} has optimizer state of {len(stored)} parameters, not of the {len(trained)} "
            "that are trained now: freeze the same ones, or choose another path"
        )
    for key, tensor in tensors.items():
        kind, _, name = key.partition(".")
        if kind == "model":
            named[name].data.copy_(tensor)
        elif optimizers:
            name, _, slot = name.rpartition(".")
            p = named[name]
            # A counter stays on the CPU, where reading it waits for nothing.
            memory[p][slot] = tensor.to(p.device) if tensor.ndim else tensor
    return run["step"], run["history"]


def _read(path: str | Path) -> tuple[dict, dict[str, Tensor]]:
    data = Path(path).read_bytes()  # at once: another process may put a newer file there meanwhile
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated, altered or no safetensors file: {error}") from error
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]  # the eight bytes are its length
    metadata = json.loads(header).get("__metadata__", {})
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is not a {FORMAT!r} but {metadata.get('format')!r}")
    if metadata.get("sha256") != _digest(metadata.get("run", ""), tensors):
        raise ValueError(f"{path} is altered: its checksum fails; delete it to start afresh")
    return json.loads(metadata["run"]), tensors


def _digest(run: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of all that a checkpoint says, in an order of its own."""
    digest = hashlib.sha256(run.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _check_config(path: str | Path, saved: dict, config: Any) -> None:
    now = json.loads(json.dumps(asdict(config)))  # tuples become lists, as they did in the file
    other = [key for key in saved.keys() | now.keys() if saved.get(key) != now.get(key)]
    if other:
        told = ", ".join(f"{key}={saved.get(key)} (now {now.get(key)})" for key in sorted(other))
        raise ValueError(f"{path} was made with {told}: choose another path, or delete it")


def _check_shapes(path: str | Path, tensors: dict[str, Tensor], named: dict[str, Tensor]) -> None:
    saved = {name: tuple(t.shape) for name, t in tensors.items() if name.startswith("model.")}
    needed = {f"model.{name}": tuple(p.shape) for name, p in named.items()}
    for name in sorted(saved.keys() | needed.keys()):
        if saved.get(name) != needed.get(name):
            found, wanted = saved.get(name, "nothing"), needed.get(name, "nothing")
            raise ValueError(f"{path} holds {found} as {name}, where the model has {wanted}")
