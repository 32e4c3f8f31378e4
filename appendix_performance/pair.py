"""Two models that are good at the same text: a deep target, and a draft of one layer.

The target learns the stories of chapter 1. It is grown: two layers learn first, for that is quick,
then ten copies that at first add nothing are put behind them, and all are trained on. Deep models
were trained that way to save time long before this one. The draft learns from the target: it is to
guess what the target would say, and not what the stories say.

Sources: Chen et al. 2015, "Net2Net" (arXiv:1511.05641), for growing without forgetting; Gong et al.
2019, "Efficient training of BERT by progressively stacking" (ICML), for copies of trained layers;
Hinton et al. 2015, "Distilling the knowledge in a neural network" (arXiv:1503.02531); Zhou et al.
2023, "DistillSpec" (arXiv:2310.08461), for drafts that are distilled.
"""

import json
from collections.abc import Callable
from contextlib import redirect_stderr
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ch01_overview.files import make_folder
from ch02_tokenization.tokenizer import BPETokenizer
from ch04_model.model import GPT, GPTConfig
from ch05_pretraining.config import TrainConfig, learning_rate
from ch05_pretraining.evaluation import evaluate
from ch05_pretraining.loop import train
from ch05_pretraining.optimizers import clip_grad_norm, make_optimizer
from ch05_pretraining.recipes import (
    Corpus,
    Preset,
    find_preset,
    fingerprint,
    folder_in_cache,
    held_out_stories,
    load_corpus,
)
from ch05_pretraining.tokens import get_batch

__all__ = ["Pair", "distil", "grown", "held_out_loss", "story_pair"]

SIZES = {"vocab_size": 1024, "context_length": 384, "d_model": 128, "tied": False}
SHALLOW = GPTConfig.qwen3(**SIZES, n_layers=2, n_heads=2)
N_LAYERS = 12
# A small model's time goes into the number of its operations: LayerNorm is one kernel, GELU has no
# gate, and queries and keys go without a norm.
CHEAP = {"norm": "layer", "activation": "gelu", "qk_norm": False}
DRAFT = GPTConfig(**SIZES, **CHEAP, n_layers=1, n_heads=2)
STEPS = {"shallow": 500, "grown": 150, "draft": 400}


@dataclass(frozen=True)
class Pair:
    """A target, a draft with the same vocabulary, and stories that neither was trained on."""

    target: GPT
    draft: GPT
    tokenizer: BPETokenizer
    held_out: Corpus

    def prompt(self, i: int, n_tokens: int = 24) -> Tensor:
        """The first tokens of a held-out story, (1, n_tokens), with the end-of-text before it."""
        start = int(self.held_out.val_starts[i])
        return self.held_out.val_ids[None, start : start + n_tokens]


def story_pair(steps: dict[str, int] | None = None) -> Pair:
    """The pair, trained on first use (two minutes on two cores), then read from the cache."""
    steps = STEPS if steps is None else steps
    base = find_preset("book")
    preset = Preset(SHALLOW, replace(base.train, eval_every=10**6), n_stories=8_000)
    settings = (asdict(preset), asdict(DRAFT), N_LAYERS, steps)
    name = fingerprint(json.dumps(settings, sort_keys=True), module=__name__)
    folder = folder_in_cache("pairs") / name
    if not folder.exists():
        make_folder(folder, lambda beside: _make(beside, preset, steps))
    target, draft = GPT(replace(SHALLOW, n_layers=N_LAYERS)), GPT(DRAFT)
    for name, model in (("target", target), ("draft", draft)):
        model.load_state_dict(load_file(folder / f"{name}.safetensors"))
    tokenizer = BPETokenizer.load(folder / "tokenizer.json")
    return Pair(target.eval(), draft.eval(), tokenizer, held_out_stories(tokenizer))


def _make(folder: Path, preset: Preset, steps: dict[str, int]) -> None:
    tokenizer, corpus = load_corpus("stories", preset)
    torch.manual_seed(0)
    shallow, draft = GPT(SHALLOW), GPT(DRAFT)
    _fit(shallow, corpus, replace(preset.train, steps=steps["shallow"]))
    target = grown(shallow, N_LAYERS)
    # Half the rate, or less: what the first two layers know should not be lost.
    gently = {"muon_lr": preset.train.muon_lr / 2, "adamw_lr": preset.train.adamw_lr / 2.5}
    _fit(target, corpus, replace(preset.train, steps=steps["grown"], seed=1, **gently))
    distil(draft, target, corpus, replace(preset.train, steps=steps["draft"]))
    folder.mkdir()
    tokenizer.save(folder / "tokenizer.json")
    for name, model in (("target", target), ("draft", draft)):
        save_file(model.state_dict(), folder / f"{name}.safetensors")


def _fit(model: GPT, corpus: Corpus, config: TrainConfig) -> None:
    with redirect_stderr(StringIO()):  # three progress bars would be longer than the chapter
        train(model, corpus.train_ids, config, starts=corpus.starts)


def distil(draft: GPT, target: GPT, corpus: Corpus, config: TrainConfig) -> None:
    """Train the draft, in place, to predict for every token what the target predicts.

    The loss is the cross-entropy of the target's distributions, where in pretraining it is that of
    the one token that follows. It is least when the two are equal.
    """
    optimizers = make_optimizer(draft, config)
    generator = torch.Generator().manual_seed(config.seed)
    sizes = config.batch_size, config.context_length
    for step in range(config.steps):
        ids, _ = get_batch(corpus.train_ids, *sizes, generator, starts=corpus.starts)
        with torch.no_grad():
            wanted = target(ids).softmax(-1)
        loss = F.cross_entropy(draft(ids).flatten(0, 1), wanted.flatten(0, 1))
        draft.zero_grad()
        loss.backward()
        clip_grad_norm(draft.parameters(), config.clip_norm)
        for optimizer in optimizers:
            optimizer.lr = learning_rate(step, config, optimizer.peak_lr)
            optimizer.step()


def grown(model: GPT, n_layers: int) -> GPT:
    """A deeper model that computes the same: copies of the last block that add nothing yet.

    Raises: ValueError if `n_layers` is less than the model has.
    """
    have = model.config.n_layers
    if n_layers < have:
        raise ValueError(f"cannot grow {have} layers to {n_layers}")
    deep = GPT(replace(model.config, n_layers=n_layers))
    deep.load_state_dict(model.state_dict(), strict=False)
    for i in range(have, n_layers):
        block = deepcopy(model.blocks[-1])
        nn.init.zeros_(block.attention.out.weight)
        nn.init.zeros_(block.feed_forward.down.weight)
        deep.blocks[i] = block
    return deep


def held_out_loss(
    model: Callable[[Tensor], Tensor], pair: Pair, n_stories: int = 60, length: int = 288
) -> float:
    """Nats per token of the first held-out stories, each predicted from its beginning."""
    starts = pair.held_out.val_starts
    end = int(starts[n_stories]) + 1 if n_stories < len(starts) else len(pair.held_out.val_ids)
    some = starts[starts < end - 1]
    return evaluate(model, pair.held_out.val_ids[:end], length, starts=some)
