"""Pretraining in one import: all that turns text into a trained model.

The parts, in the order of the chapter:

- `tokens`       ids on disk and in batches
- `loop`         the loss, and the loop around everything
- `optimizers`   clipping, AdamW, Muon
- `config`       what a run can be told, and its learning rates
- `evaluation`   the loss on held-out text
- `checkpoint`   a run on disk
- `recipes`      the book's presets and corpora, and models made once
"""

from ch05_pretraining.checkpoint import load_checkpoint, save_checkpoint
from ch05_pretraining.config import TrainConfig, learning_rate
from ch05_pretraining.evaluation import evaluate
from ch05_pretraining.loop import bits_per_byte, cross_entropy, perplexity, train
from ch05_pretraining.optimizers import AdamW, Muon, clip_grad_norm, make_optimizer
from ch05_pretraining.recipes import pretrained
from ch05_pretraining.tokens import get_batch

__all__ = [
    "get_batch",
    "cross_entropy",
    "perplexity",
    "bits_per_byte",
    "TrainConfig",
    "learning_rate",
    "clip_grad_norm",
    "AdamW",
    "Muon",
    "make_optimizer",
    "train",
    "evaluate",
    "save_checkpoint",
    "load_checkpoint",
    "pretrained",
]
