"""What the book trains, and how: corpora ready for the loop, presets, and models made once.

>>> model, tokenizer = pretrained()          # the book's model, on stories; trained on first use

Shapes: N ids in a stream, S texts.
"""

import ast
import codecs
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ch01_overview.corpus import TRAIN_SEED, parse, stories, text_path
from ch01_overview.files import cache_folder, make_folder
from ch02_tokenization.tokenizer import CONTROL_TOKENS, END_OF_TEXT, BPETokenizer, train_bpe
from ch04_model.huggingface import load_pretrained, save_pretrained
from ch04_model.model import GPT, GPTConfig, generate
from ch05_pretraining.config import TrainConfig
from ch05_pretraining.loop import bits_per_byte, train
from ch05_pretraining.tokens import document_starts, open_tokens, write_tokens

__all__ = [
    "PRESETS",
    "Corpus",
    "Preset",
    "find_preset",
    "fingerprint",
    "folder_in_cache",
    "held_out_stories",
    "load_corpus",
    "pretrained",
    "read_pieces",
    "run_path",
    "share_of_stories",
    "train_from_scratch",
]

VAL_SHARE = 0.1  # of a text of one's own, at its end
VAL_BYTES = 1 << 22  # at most: a million tokens tell a loss to some thousandths of a nat
TOKENIZER_BYTES = 1 << 28  # enough to tell frequent pairs from rare ones
N_VAL_STORIES = 1_000
N_TOKENIZER_STORIES = 5_000  # more of them change no merge that matters, and take time
PIECE = 1 << 20  # bytes of a file in memory at a time


# Heads twice as wide as d_model / n_heads: they learnt sooner here. What a model of stories has to
# learn is to copy a name from far back, and of such a head's columns 36 hardly turn within a
# window, where one of half the width has 18. (It also has twice the weights.)
SMALL = {
    **{"vocab_size": 1024, "context_length": 384, "tied": False},
    **{"n_layers": 2, "n_heads": 4, "d_model": 128, "head_dim": 64},
}
# For a million characters of real text: the rarest of more than 512 tokens would hardly be met.
LETTERS = {"vocab_size": 512, "context_length": 128, "tied": False, "n_heads": 4, "d_model": 128}
GENTLE = {"muon_lr": 0.03, "adamw_lr": 0.02, "weight_decay": 0.1, "warmup": 0.03, "decay": 0.9}
# Few steps have to do: small batches, and for AdamW a rate eighty times that of "124M". In float32
# on every processor, so that what the book says of its model is true of the reader's.
FAST = {
    **{"batch_size": 4, "context_length": 288, "muon_lr": 0.03, "adamw_lr": 0.05},
    **{"weight_decay": 0.0, "decay": 0.9, "precision": "float32"},
}


@dataclass(frozen=True)
class Preset:
    """A model's sizes, how to train it, and how many stories make up its corpus of that name."""

    model: GPTConfig
    train: TrainConfig
    n_stories: int

    def with_steps(self, steps: int) -> "Preset":
        """The same, trained for another number of steps."""
        return replace(self, train=replace(self.train, steps=steps))


PRESETS = {
    # Learns a text in about a minute, on two cores.
    "minute": Preset(
        GPTConfig.qwen3(**SMALL), TrainConfig(**FAST, steps=600, eval_every=200), n_stories=8_000
    ),
    # The book's model, which chapter 6 makes an assistant of.
    "book": Preset(
        GPTConfig.qwen3(**SMALL), TrainConfig(**FAST, steps=1_450, eval_every=500), n_stories=18_000
    ),
    # As good as a model of stories gets in two minutes: half the heads, so more steps.
    "two-minutes": Preset(
        GPTConfig.qwen3(**SMALL | {"n_heads": 2}),
        TrainConfig(**FAST, steps=1_350, eval_every=450),
        n_stories=18_000,
    ),
    # Against two of nanoGPT's recipes for Tiny Shakespeare: see benchmark.py.
    "laptop": Preset(
        GPTConfig.qwen3(**LETTERS, n_layers=2),
        TrainConfig(steps=180, batch_size=16, context_length=64, **GENTLE | {"weight_decay": 0.0}),
        n_stories=8_000,
    ),
    "five-minutes": Preset(
        GPTConfig.qwen3(**LETTERS, n_layers=3),
        TrainConfig(steps=1_000, batch_size=16, context_length=128, **GENTLE),
        n_stories=18_000,
    ),
    "10M": Preset(
        GPTConfig.qwen3(vocab_size=4096, n_layers=6, n_heads=5, d_model=320, tied=False),
        TrainConfig(steps=5_000, batch_size=32, adamw_lr=0.01),
        n_stories=300_000,
    ),
    # GPT-2's size, for one GPU or several: 0.5 million tokens a step, 10 thousand million in all.
    "124M": Preset(
        GPTConfig.gpt2("124M"),
        TrainConfig(
            steps=20_000, batch_size=512, context_length=1024, accumulation=32, adamw_lr=6e-4
        ),
        n_stories=1_000_000,
    ),
}


@dataclass(frozen=True)
class Corpus:
    """Token ids to train on and to be tested on, and what is known about the text.

    `starts` say where texts begin, and `floor` is -log p of the held-out texts under the process
    that wrote them, in nats per token; both are None for real text. `val_bytes` is the length of
    the held-out text, `vocab_size` that of the tokenizer's vocabulary.
    """

    train_ids: Tensor | np.ndarray
    val_ids: Tensor | np.ndarray
    val_bytes: int
    vocab_size: int
    starts: Tensor | None = None
    val_starts: Tensor | None = None
    floor: float | None = None

    def bits_per_byte(self, nats_per_token: float) -> float:
        """A loss on the held-out text, on the scale that is common to all tokenizers."""
        return bits_per_byte(nats_per_token * (len(self.val_ids) - 1), self.val_bytes)


def load_corpus(source: str | Path, preset: Preset) -> tuple[BPETokenizer, Corpus]:
    """A tokenizer trained on the training part of `source`, and the ids of all of it.

    Stories are told anew; those held out have a seed of their own. Of Shakespeare or any UTF-8 file
    the last tenth is held out, 4 MB at most. A file is read in pieces, once, and its ids stay on
    the disk, so that it may be larger than memory.

    Raises:
        ValueError: if the file is missing, empty or not UTF-8.
    """
    return _story_corpus(preset) if source == "stories" else _file_corpus(source, preset)


def _story_corpus(preset: Preset) -> tuple[BPETokenizer, Corpus]:
    unseen = {story.text for story in stories(N_VAL_STORIES, seed=0)}
    texts = [s.text for s in stories(preset.n_stories, TRAIN_SEED) if s.text not in unseen]
    tokenizer = train_bpe(texts[:N_TOKENIZER_STORIES], preset.model.vocab_size, CONTROL_TOKENS)
    ids = _stream(texts, tokenizer)
    starts = document_starts(ids, tokenizer.special_ids[END_OF_TEXT])
    return tokenizer, replace(held_out_stories(tokenizer), train_ids=ids, starts=starts)


def held_out_stories(tokenizer: BPETokenizer) -> Corpus:
    """Stories that no preset trains on, and their floor; there is nothing to train on in it."""
    held_out = stories(N_VAL_STORIES, seed=0)
    ids = _stream([story.text for story in held_out], tokenizer)
    return Corpus(
        train_ids=ids[:0],
        val_ids=ids,
        val_bytes=sum(len(story.text.encode()) + 2 for story in held_out),  # and the blank line
        vocab_size=tokenizer.vocab_size,
        val_starts=document_starts(ids, tokenizer.special_ids[END_OF_TEXT]),
        floor=-sum(story.log_prob for story in held_out) / (len(ids) - 1),
    )


def _stream(texts: list[str], tokenizer: BPETokenizer) -> Tensor:
    """EOT text EOT text EOT, as one tensor of ids."""
    end = tokenizer.special_ids[END_OF_TEXT]
    encoded = tokenizer.to_tiktoken().encode_ordinary_batch(texts, num_threads=os.cpu_count() or 1)
    return torch.tensor([end] + [i for ids in encoded for i in (*ids, end)])


def _file_corpus(source: str | Path, preset: Preset) -> tuple[BPETokenizer, Corpus]:
    path, vocab_size = text_path(source), preset.model.vocab_size
    size = path.stat().st_size
    cut = _whole_character(path, max(int(size * (1 - VAL_SHARE)), size - VAL_BYTES))
    folder = folder_in_cache("tokens") / _key(source, vocab_size)

    def fill(beside: Path) -> None:
        beside.mkdir()
        enough = _whole_character(path, min(cut, TOKENIZER_BYTES))
        tokenizer = train_bpe(read_pieces(path, 0, enough), vocab_size, CONTROL_TOKENS)
        tokenizer.save(beside / "tokenizer.json")
        fast = tokenizer.to_tiktoken()
        for part, begin, end in (("train", 0, cut), ("val", cut, size)):
            pieces = read_pieces(path, begin, end)
            ids = (i for piece in pieces for i in fast.encode_ordinary(piece))
            write_tokens(beside / part, ids, fast.n_vocab)

    if not folder.exists():
        make_folder(folder, fill)
    tokenizer = BPETokenizer.load(folder / "tokenizer.json")
    train_ids, val_ids = open_tokens(folder / "train"), open_tokens(folder / "val")
    return tokenizer, Corpus(train_ids, val_ids, size - cut, tokenizer.vocab_size)


def _whole_character(path: Path, place: int) -> int:
    """The first byte from `place` on at which a character of a UTF-8 file begins."""
    with path.open("rb") as file:
        file.seek(place)
        while (byte := file.read(1)) and 0x80 <= byte[0] < 0xC0:  # the 2nd to 4th of a character
            pass
        return file.tell() - len(byte)


def read_pieces(path: Path, begin: int, end: int) -> Iterator[str]:
    """The bytes of a UTF-8 file from `begin` to `end`, about a megabyte of text at a time.

    A piece ends where a line does, if it holds the end of one: so no word is torn.

    Raises:
        ValueError: if the file is not UTF-8.
    """
    decoder, rest = codecs.getincrementaldecoder("utf-8")(), ""
    with path.open("rb") as file:
        file.seek(begin)
        while chunk := file.read(min(PIECE, end - file.tell())):
            try:
                text = rest + decoder.decode(chunk, final=file.tell() == end)
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} is not UTF-8 just before byte {file.tell()}") from error
            line_end = text.rfind("\n") + 1 or len(text)
            yield text[:line_end]
            rest = text[line_end:]
    if rest:
        yield rest


def folder_in_cache(name: str) -> Path:
    """A folder of this name in the cache."""
    folder = cache_folder() / name
    folder.mkdir(exist_ok=True)
    return folder


def fingerprint(*things: str | bytes, module: str = __name__) -> str:
    """Twelve hex digits that change with any of `things`, torch, or the code behind `module`.

    That is the code of the module itself and of all the book's modules that it imports, directly or
    not: whatever can shape a model that the module trains.
    """
    digest = hashlib.sha256(torch.__version__.encode())
    for _, code in sorted(_code_behind(module, {}).items()):
        digest.update(code)
    for thing in things:
        digest.update(thing.encode() if isinstance(thing, str) else thing)
    return digest.hexdigest()[:12]


def _code_behind(module: str, found: dict[str, bytes]) -> dict[str, bytes]:
    """Add to `found` the book's module of that name and those that it imports."""
    path = Path(__file__).parents[1] / (module.replace(".", "/") + ".py")
    if module not in found and path.exists():
        found[module] = path.read_bytes()
        for node in ast.walk(ast.parse(found[module])):
            if isinstance(node, ast.ImportFrom):
                for name in (node.module, *(f"{node.module}.{part.name}" for part in node.names)):
                    _code_behind(name, found)
    return found


def _key(source: str | Path, *settings: object) -> str:
    """A file name for what is made of a text, which changes with all that shapes it."""
    shaped_by = [json.dumps(settings, sort_keys=True)]
    if source != "stories":
        with text_path(source).open("rb") as file:
            shaped_by.append(hashlib.file_digest(file, "sha256").digest())
    return f"{Path(source).stem}-{fingerprint(*shaped_by)}"


def find_preset(preset: str | Preset) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: if there is none.
    """
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: there are {', '.join(PRESETS)}")
    return PRESETS[preset]


def run_path(source: str | Path, preset: Preset) -> Path:
    """Where the checkpoint of such a run is kept."""
    return folder_in_cache("runs") / f"{_key(source, asdict(preset))}.safetensors"


def pretrained(
    source: str | Path = "stories", preset: str | Preset = "book"
) -> tuple[GPT, BPETokenizer]:
    """A model trained on `source`, and its tokenizer: made on first use, then read from the cache.

    The cache knows a model by everything that shaped it: the preset, the text, the code of the
    chapters and the version of torch. Training that was interrupted is taken up where it stopped.

    Raises:
        ValueError: for an unknown preset, or a text that cannot be read.
    """
    preset = find_preset(preset)
    folder = folder_in_cache("models") / _key(source, asdict(preset))
    if not folder.exists():
        tokenizer, corpus = load_corpus(source, preset)
        model, _ = train_from_scratch(corpus, preset, run_path(source, preset))
        make_folder(folder, lambda beside: save_pretrained(model, tokenizer, beside))
    return load_pretrained(folder)


def train_from_scratch(
    corpus: Corpus, preset: Preset, checkpoint: Path | None = None
) -> tuple[GPT, list[dict]]:
    """A new model of a preset, trained on a corpus, and the history of its training.

    It is trained on a GPU if there is one, and comes back on the CPU.
    """
    torch.manual_seed(preset.train.seed)
    # A short text may have fewer tokens in it than the preset would like.
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    model = GPT(replace(preset.model, vocab_size=corpus.vocab_size)).to(device)
    history = train(
        model,
        corpus.train_ids,
        preset.train,
        starts=corpus.starts,
        val_ids=corpus.val_ids,
        val_starts=corpus.val_starts,
        floor=corpus.floor,
        checkpoint=checkpoint,
    )
    return model.cpu().eval(), history


def share_of_stories(
    model: GPT,
    tokenizer: BPETokenizer,
    n: int = 100,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[float, list[str]]:
    """The share of `n` samples that `parse` as stories, and the samples.

    At temperature 1 the samples follow the model's own distribution.
    """
    end = tokenizer.special_ids[END_OF_TEXT]
    ids = generate(
        model,
        torch.full((n, 1), end),
        model.config.context_length - 1,
        temperature=temperature,
        stop_ids=(end,),
        generator=generator,
    )
    texts = []
    for row in ids[:, 1:].tolist():
        texts.append(tokenizer.decode(row[: row.index(end)] if end in row else row))
    return sum(parse(text) is not None for text in texts) / n, texts
