"""Train a language model from the command line.

    python -m ch05_pretraining.pretrain                                    # the book's, on stories
    python -m ch05_pretraining.pretrain --corpus shakespeare --preset minute
    python -m ch05_pretraining.pretrain --corpus my.txt --preset 10M --out my-model
    torchrun --nproc_per_node=2 -m ch05_pretraining.pretrain               # two processes

Started again after an interruption, it goes on where it stopped. Started again after its end, it
shows the result.
"""

import argparse
import os
import sys
from pathlib import Path

import torch

from ch02_tokenization.tokenizer import BPETokenizer
from ch04_model.huggingface import save_pretrained
from ch04_model.model import GPT, generate
from ch05_pretraining.recipes import (
    PRESETS,
    Corpus,
    find_preset,
    load_corpus,
    run_path,
    share_of_stories,
    train_from_scratch,
)

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, and report the held-out loss, samples and where the model is."""
    options = _parser().parse_args(arguments)
    preset = find_preset(options.preset)
    if options.steps is not None:
        preset = preset.with_steps(options.steps)
    _say(f"Preparing {options.corpus} ...")
    tokenizer, corpus = load_corpus(options.corpus, preset)
    _say(
        f"{len(corpus.train_ids):,} tokens to train on, {len(corpus.val_ids):,} held out, "
        f"{tokenizer.vocab_size:,} in the vocabulary"
    )
    path = run_path(options.corpus, preset)
    model, history = train_from_scratch(corpus, preset, path)
    if int(os.environ.get("RANK", 0)) == 0:
        _report(model, tokenizer, corpus, history, is_story=options.corpus == "stories")
        if options.out:
            save_pretrained(model, tokenizer, options.out)
            _say(f"saved to {options.out}, for load_pretrained or transformers")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ch05_pretraining.pretrain")
    parser.add_argument("--corpus", default="stories", help="stories, shakespeare or a UTF-8 file")
    parser.add_argument("--preset", default="book", help=", ".join(PRESETS))
    parser.add_argument("--steps", type=int, help="instead of the preset's")
    parser.add_argument("--out", type=Path, help="a folder to save the model to")
    return parser


def _say(line: str) -> None:
    if int(os.environ.get("RANK", 0)) == 0:
        print(line, flush=True)


def _report(
    model: GPT, tokenizer: BPETokenizer, corpus: Corpus, history: list[dict], is_story: bool
) -> None:
    loss = history[-1]["val_loss"]
    print(
        f"validation loss over the whole split: {loss:.4f} nats per token, "
        f"{corpus.bits_per_byte(loss):.4f} bits per byte"
    )
    if corpus.floor is not None:
        floor = corpus.floor
        print(
            f"floor: {floor:.4f} nats per token, {corpus.bits_per_byte(floor):.4f} bits per byte; "
            f"the loss is {loss / floor:.3f} times the floor"
        )
    generator = torch.Generator().manual_seed(0)
    if is_story:
        share, texts = share_of_stories(model, tokenizer, n=100, generator=generator)
        print(f"{share:.0%} of 100 samples are stories without a mistake; three of them:\n")
        print("\n\n".join(texts[:3]))
    else:
        start = torch.tensor([tokenizer.encode("\n")])
        ids = generate(model, start, 400, temperature=0.8, generator=generator)
        print(f"a sample:\n{tokenizer.decode(ids[0].tolist())}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. Start it again to go on from here.")
