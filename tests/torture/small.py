"""Everything the book makes, so small that a run of it takes a second or less."""

import hashlib
import os
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open

from ch01_overview.corpus import stories
from ch02_tokenization.tokenizer import CONTROL_TOKENS, BPETokenizer, train_bpe
from ch04_model.huggingface import load_pretrained
from ch04_model.model import GPT, GPTConfig
from ch05_pretraining import checkpoint, recipes
from ch05_pretraining.config import TrainConfig
from ch05_pretraining.recipes import Preset
from ch05_pretraining.tokens import open_tokens
from ch06_alignment import finetune

__all__ = [
    "PRESET",
    "TEXTS",
    "TOKENIZER",
    "assistant_in",
    "cache_in",
    "contents",
    "tiny_gpt",
    "unreadable",
]

TEXTS = [story.text for story in stories(400, seed=5)]
TOKENIZER = train_bpe(TEXTS, 400, CONTROL_TOKENS)
STEPS = TrainConfig(
    steps=12, batch_size=3, context_length=31, eval_every=5, precision="float32", adamw_lr=0.01
)
PRESET = Preset(
    GPTConfig.qwen3(vocab_size=500, context_length=512, n_layers=1, n_heads=2, d_model=12),
    STEPS,
    n_stories=150,
)


def tiny_gpt(seed: int = 0, **sizes) -> GPT:
    """A model of random weights, its head included."""
    torch.manual_seed(seed)
    shape = {"context_length": 64, "n_layers": 2, "n_heads": 2, "d_model": 16, "tied": False}
    model = GPT(GPTConfig.qwen3(**{"vocab_size": TOKENIZER.vocab_size} | shape | sizes))
    torch.nn.init.normal_(model.head.weight, std=0.3)
    return model


def cache_in(folder: Path) -> None:
    """From here on the book's cache is this folder, and checkpoints are written at every step."""
    os.environ["LLM_CACHE_DIR"] = str(folder)
    os.environ.pop("LLM_DATA_DIR", None)
    recipes.N_VAL_STORIES = 7
    recipes.train = partial(recipes.train, checkpoint_seconds=0.0)


def assistant_in(folder: Path) -> Path:
    """The book's assistant and all that it is made from, of the smallest size, in this cache."""
    cache_in(folder)
    recipes.PRESETS["book"] = PRESET
    finetune.N_CONVERSATIONS = 30
    finetune.train = partial(finetune.train, checkpoint_seconds=0.0)
    finetune.finetune = partial(finetune.finetune, config=STEPS)
    finetune.report_card = lambda base, model, tokenizer: f"{model.n_parameters} weights\n"
    return finetune.assistant_folder()


def _visible(folder: Path) -> list[Path]:
    """The files that the book may read: not those being written, whose names begin with a dot."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [p for p in paths if not any(part[0] == "." for part in p.relative_to(folder).parts)]


def unreadable(folder: Path) -> str | None:
    """The first file that the book would read and could not, for it is damaged or half written."""
    for path in _visible(folder):
        try:
            if path.name == "model.safetensors":
                load_pretrained(path.parent)
            elif path.suffix == ".safetensors":
                checkpoint._read(path)
            elif path.name == "tokenizer.json":
                BPETokenizer.load(path)
            elif "tokens" in path.parts and not path.suffix:
                open_tokens(path)
        except ValueError as error:
            return str(error)
    return None


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file; of a checkpoint, of its tensors, since its history has seconds."""
    return {str(path.relative_to(folder)): _digest(path) for path in _visible(folder)}


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            for name in sorted(file.keys()):
                digest.update(name.encode())
                digest.update(file.get_tensor(name).flatten().view(torch.uint8).numpy())
    else:
        digest.update(path.read_bytes())
    return digest.hexdigest()
