"""Every kind of file that the book reads: cut short, altered, of another version, or a pickle."""

import ast
import json
import os
import pickle
import random
import tempfile
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ch01_overview import corpus
from ch02_tokenization.tokenizer import BPETokenizer
from ch04_model.huggingface import load_pretrained, save_pretrained
from ch05_pretraining.checkpoint import load_checkpoint, save_checkpoint
from ch05_pretraining.optimizers import make_optimizer
from ch05_pretraining.recipes import load_corpus
from ch05_pretraining.tokens import open_tokens, write_tokens
from ch05_pretraining.watching import snapshot
from tests.torture import Attempts, row
from tests.torture.child import Child
from tests.torture.kill import download, serve
from tests.torture.small import PRESET, STEPS, TEXTS, TOKENIZER, cache_in, tiny_gpt

ROOT = Path(__file__).parents[2]
SAMPLE = "\n".join(TEXTS[:30])
FLIPS = 0.6  # share of the attempts


class Bomb:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def _damage(rng: random.Random, whole: bytes, mark: Path) -> tuple[str, bytes]:
    """What was done, and the damaged bytes."""
    if rng.random() < FLIPS:
        i, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
        return f"bit {bit} of byte {i} flipped", whole[:i] + bytes([whole[i] ^ bit]) + whole[
            i + 1 :
        ]
    kinds: list[tuple[str, bytes]] = [
        ("cut short", whole[: rng.randrange(1, len(whole))]),
        ("empty", b""),
        ("a pickle", pickle.dumps(Bomb(mark), protocol=rng.randrange(6))),
        ("random bytes", rng.randbytes(rng.randrange(1, 99))),
        ("zeros", bytes(len(whole))),
        ("brackets inside brackets", b"[" * 100_000),
        ("another version", _newer(whole)),
        ("too long", whole + rng.randbytes(1)),
    ]
    return rng.choice(kinds)


def _newer(whole: bytes) -> bytes:
    """The same as a later version of the book would mark it."""
    for now in (
        b"llm-book checkpoint 1",
        b"tokens 1",
        b'"version": "1.0"',
        b'"model_type": "qwen3"',
    ):
        if now in whole:
            return whole.replace(now, now.replace(b"1", b"2").replace(b"qwen3", b"qwen9"), 1)
    return whole[::-1]


def _attempts(
    rng: random.Random,
    n: int,
    path: Path,
    read: Callable[[], Any],
    named: tuple[str, ...] = (),
) -> Attempts:
    """Damage `path` n times; `read` must say so with the file's name, or give what it gave."""
    whole, mark = path.read_bytes(), path.with_name("executed")
    wanted, same = read(), []
    for _ in range(n):
        what, damaged = _damage(rng, whole, mark)
        path.write_bytes(damaged)
        lost = None
        try:
            if read() != wanted:
                lost = f"{path.name}, {what}: read as something else without a word"
            same.append(what)
        except ValueError as error:
            if not any(name in str(error) for name in (path.name, *named)):
                lost = f"{path.name}, {what}: {error!r} does not name the file"
            elif len(str(error)) < len(str(path)) + 10:
                lost = f"{path.name}, {what}: {error!r} gives no cause"
        except Exception as error:
            lost = f"{path.name}, {what}: {error!r}"
        yield f"{path.name}, {what}: code in the file was run" if mark.exists() else lost
    path.write_bytes(whole)
    return f"{len(same)} read as before" if same else "all refused by name"


def _weights(model: torch.nn.Module) -> str:
    data = [p.detach().numpy().tobytes() for p in model.parameters()]
    return sha256(b"".join(data)).hexdigest()


def _folder(name: str) -> Path:
    """A folder with a file of every kind."""
    folder, model = Path(name), tiny_gpt()
    optimizers = make_optimizer(model, STEPS)
    for optimizer in optimizers:
        for p in optimizer.state:
            optimizer.state[p]["mean"] = torch.ones_like(p)
    save_checkpoint(folder / "run.safetensors", model, optimizers, STEPS, 3, [{"step": 3}])
    (folder / "alone").mkdir()
    TOKENIZER.save(folder / "alone" / "tokenizer.json")
    write_tokens(folder / "tokens", TOKENIZER.encode(SAMPLE), 512)
    save_pretrained(model, TOKENIZER, folder / "model")
    (folder / "text.txt").write_text(SAMPLE + " Löwe 🦁", encoding="utf-8")
    return folder


def _checkpoint(path: Path) -> Any:
    model = tiny_gpt(seed=1)
    return load_checkpoint(path, model, make_optimizer(model, STEPS), STEPS), _weights(model)


def _tokenizer(path: Path) -> Any:
    """What a lone file promises: the ids of every text. (A control token's name is only a name.)"""
    tokenizer = BPETokenizer.load(path)
    return tokenizer.vocab, tokenizer.merges, list(tokenizer.special_ids.values())


def _model(path: Path) -> Any:
    model, tokenizer = load_pretrained(path.parent)
    return model.config, _weights(model), tokenizer.special_ids, tokenizer.merges


@row("corrupt", "checkpoint", attempts=500, quick=20)
def checkpoint(rng: random.Random, n: int) -> Attempts:
    """Weights, optimizers, history."""
    with tempfile.TemporaryDirectory() as name:
        path = _folder(name) / "run.safetensors"
        return (yield from _attempts(rng, n, path, partial(_checkpoint, path)))


@row("corrupt", "tokenizer.json by itself", attempts=500, quick=20)
def tokenizer(rng: random.Random, n: int) -> Attempts:
    """Refused, or all ids are as before: JSON has spaces and settings that say nothing."""
    with tempfile.TemporaryDirectory() as name:
        path = _folder(name) / "alone" / "tokenizer.json"
        remark = yield from _attempts(rng, n, path, partial(_tokenizer, path))
    return f"{remark}: spaces, names of control tokens, other programs' settings"


def _of_model(file: str, attempts: int, quick: int) -> None:
    @row("corrupt", f"{file} of a model", attempts, quick)
    def of_model(rng: random.Random, n: int) -> Attempts:
        with tempfile.TemporaryDirectory() as name:
            path = _folder(name) / "model" / file
            # Weights may be in several files: what does not fit in them is told of their folder.
            return (
                yield from _attempts(rng, n, path, partial(_model, path), (f"{path.parent}: ",))
            )


for _file in ("config.json", "tokenizer.json", "model.safetensors"):
    _of_model(_file, attempts=500, quick=20)


@row("corrupt", "token file", attempts=1000, quick=20)
def tokens(rng: random.Random, n: int) -> Attempts:
    """A corpus as ids."""
    with tempfile.TemporaryDirectory() as name:
        path = _folder(name) / "tokens"
        return (yield from _attempts(rng, n, path, lambda: np.array(open_tokens(path)).tolist()))


@row("corrupt", "weights of a watched run", attempts=500, quick=20)
def watched(rng: random.Random, n: int) -> Attempts:
    """What chapter 5 keeps of a model on its way."""
    from ch05_pretraining import watching

    with tempfile.TemporaryDirectory() as name:
        cache_in(Path(name))
        _, data = load_corpus("stories", PRESET)
        said = Child(lambda: str(watching.watch(data, PRESET, (0, 5))[2][5])).wait()
        path = Path(said["returned"])
        return (yield from _attempts(rng, n, path, lambda: _weights(snapshot(PRESET, path))))


@row("corrupt", "a text of one's own", attempts=500, quick=20)
def text(rng: random.Random, n: int) -> Attempts:
    """A text has no wrong letters, but it must be UTF-8: then it is read byte for byte."""
    with tempfile.TemporaryDirectory() as name:
        path = _folder(name) / "text.txt"

        def read() -> bool:
            return corpus.load_text(path).encode() == path.read_bytes()

        yield from _attempts(rng, n, path, read)
    return "refused by name, unless the bytes are UTF-8 still"


@row("corrupt", "a download", attempts=24, quick=2)
def downloaded(rng: random.Random, n: int) -> Attempts:
    """What comes over the wire, and what was kept of it, must have the right SHA-256."""
    digest = sha256(SAMPLE.encode()).hexdigest()
    for i in range(n):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            what, body = _damage(rng, SAMPLE.encode(), folder / "executed")
            server, address = serve(body)
            kept = folder / corpus.SHAKESPEARE
            if i % 2:  # damaged in the cache; and there is nothing to download it from again
                kept.write_bytes(body)
                server.kill()
            said = Child(partial(download, folder, address, digest)).wait()
            error = said.get("error", "")
            yield (
                f"{what}: accepted"
                if "ValueError" not in error
                else f"{what}: {error!r} names no file"
                if corpus.SHAKESPEARE not in error
                else f"{what}: code in the file was run"
                if (folder / "executed").exists()
                else f"{what}: kept under the name of the text"
                if not i % 2 and kept.exists()
                else None
            )
            if not i % 2:
                server.kill()
            server.wait()
    return "half over the wire, half in the cache"


@row("corrupt", "hostile JSON", attempts=200, quick=20)
def hostile_json(rng: random.Random, n: int) -> Attempts:
    """Well-formed files from elsewhere that say absurd things: refused by name, or never asked."""
    absurd = [None, True, -1, 0, 1e999, 10**30, "", "x" * 1000, [], {}, [[]], {"a": 1}, "NaN"]
    with tempfile.TemporaryDirectory() as name:
        folder, accepted = _folder(name) / "model", 0
        (folder / "SHA256SUMS").unlink()  # which only our own folders have
        for i in range(n):
            path = folder / ("config.json", "tokenizer.json")[i % 2]
            whole = path.read_bytes()
            fields = json.loads(whole)
            place, key = _random_place(rng, fields)
            place[key] = rng.choice(absurd)
            path.write_text(json.dumps(fields))
            lost = None
            try:
                load_pretrained(folder)
                accepted += 1
            except ValueError as error:
                if str(folder) not in str(error) and "the tokenizer has" not in str(error):
                    lost = f"{key}={str(place[key])[:20]}: {error!r} does not name the file"
            except Exception as error:
                lost = f"{path.name}, {key}={str(place[key])[:20]}: {error!r}"
            yield lost
            path.write_bytes(whole)
    return f"{accepted} were in fields that say nothing here"


def _random_place(rng: random.Random, fields: Any) -> tuple[Any, Any]:
    while True:
        key = rng.choice(list(fields) if isinstance(fields, dict) else range(len(fields)))
        inner = fields[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.3:
            return fields, key
        fields = inner


FORBIDDEN = {"eval", "exec", "compile", "__import__"}
LOADERS = {("torch", "load"), ("np", "load"), ("numpy", "load"), ("marshal", "loads")}
MODULES = {"pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "yaml"}


@row("corrupt", "code that could run what it reads", attempts=1, quick=1)
def code(rng: random.Random, n: int) -> Attempts:
    """No file of the book's code unpickles, and none evaluates text."""
    paths = [p for part in ("ch*", "appendix_*", "book") for p in sorted(ROOT.glob(f"{part}/*.py"))]
    for path in paths:
        found = [_can_run(node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
        found = sorted({name for name in found if name})
        yield f"{path.relative_to(ROOT)} has {', '.join(found)}" if found else None
    return "no pickle, no eval, no torch.load without weights_only"


def _can_run(node: ast.AST) -> str | None:
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names]
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        return next((name for name in names if name.split(".")[0] in MODULES), None)
    if isinstance(node, ast.Call):
        function = node.func
        if isinstance(function, ast.Name) and function.id in FORBIDDEN:
            return function.id
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            pair = function.value.id, function.attr
            safe = any(
                k.arg == "weights_only" and getattr(k.value, "value", None) is True
                for k in node.keywords
            )
            return None if pair not in LOADERS or safe else ".".join(pair)
    return None
