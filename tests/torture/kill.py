"""Processes killed at random moments, a disk that is full, a folder that cannot be written."""

import hashlib
import http.server
import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from ch01_overview import corpus
from ch01_overview.files import write_whole
from ch02_tokenization.tokenizer import train_bpe
from ch04_model.huggingface import load_pretrained, save_pretrained
from ch05_pretraining import loop
from ch05_pretraining.recipes import load_corpus
from ch05_pretraining.tokens import write_tokens
from tests.torture import Attempts, row
from tests.torture.child import Child, finish
from tests.torture.small import (
    PRESET,
    STEPS,
    TEXTS,
    TOKENIZER,
    assistant_in,
    cache_in,
    contents,
    tiny_gpt,
    unreadable,
)


def _killed(rng: random.Random, n: int, job: Callable[[Path], object]) -> Attempts:
    """Kill `job(folder)` n times, each in an empty folder, and start it again to its end."""
    with tempfile.TemporaryDirectory() as name:
        folder, struck, left = Path(name), 0, 0
        began = time.perf_counter()
        finish(partial(job, folder / "whole"))
        seconds, wanted = time.perf_counter() - began, contents(folder / "whole")
        for i in range(n):
            place, moment = folder / str(i), rng.uniform(0, seconds)
            child = Child(partial(job, place))
            time.sleep(moment)
            child.kill()
            said = child.wait()
            struck += not said
            lost = said.get("error") or unreadable(place)
            left += sum(path.name[0] == "." for path in place.rglob("*"))
            again = Child(partial(job, place)).wait()
            if "returned" not in again:
                lost = lost or f"did not start again: {again.get('error')}"
            elif contents(place) != wanted:
                lost = lost or f"killed after {moment:.3f} s, it ended with other files"
            yield lost
            shutil.rmtree(place, ignore_errors=True)
    return f"{struck} struck a run of {seconds:.1f} s; {left} unfinished files lay unread"


def _train(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    model, ids = tiny_gpt(), torch.tensor(TOKENIZER.encode("\n".join(TEXTS[:20])))
    config = loop.replace(STEPS, steps=25)
    loop.train(
        model, ids, config, val_ids=ids[:99], checkpoint=folder / "run.safetensors",
        checkpoint_seconds=0.0,
    )  # fmt: skip


@row("kill", "training, at any step", attempts=40, quick=1)
def training(rng: random.Random, n: int) -> Attempts:
    """Weights and optimizers end bit for bit as if nothing had happened."""
    return (yield from _killed(rng, n, _train))


@row("kill", "training of a tokenizer", attempts=15, quick=0)
def tokenizer(rng: random.Random, n: int) -> Attempts:
    """Several, each in place of the last: what lies there is always one of them."""

    def job(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        for size in range(300, 420, 10):
            train_bpe(TEXTS[:100], size).save(folder / "tokenizer.json")

    return (yield from _killed(rng, n, job))


@row("kill", "preparation of token files", attempts=15, quick=1)
def shards(rng: random.Random, n: int) -> Attempts:
    """A text of one's own is cut into tokens, training part and held-out part."""
    with tempfile.TemporaryDirectory() as name:
        text = Path(name) / "text.txt"
        text.write_text("\n".join(TEXTS), encoding="utf-8")

        def job(folder: Path) -> None:
            cache_in(folder)
            _, data = load_corpus(text, PRESET)
            for _ in range(10):
                write_tokens(folder / "tokens" / "again", data.train_ids.tolist(), 1 << 20)

        return (yield from _killed(rng, n, job))


@row("kill", "set-up of the chat", attempts=15, quick=0)
def chat(rng: random.Random, n: int) -> Attempts:
    """From nothing to the assistant: corpus, tokenizer, training, fine-tuning, two folders."""
    return (yield from _killed(rng, n, lambda folder: str(assistant_in(folder))))


def serve(body: bytes, seconds: float = 0.0) -> tuple[Child, str]:
    """A server of its own on this machine, which takes so long to send `body`; and its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for i in range(0, len(body), size := max(1, len(body) // 50)):
                self.wfile.write(body[i : i + size])
                time.sleep(seconds / 50)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}/input.txt"
    child = Child(server.serve_forever)
    server.server_close()  # the parent's copy of the socket
    return child, address


def download(folder: Path, address: str, digest: str) -> str:
    """Tiny Shakespeare, from another place and with another content."""
    cache_in(folder)
    os.environ["NO_PROXY"] = "127.0.0.1"
    corpus.SHAKESPEARE_URL, corpus.SHAKESPEARE_SHA256 = address, digest
    return corpus.load_text("shakespeare")


@row("kill", "download of a text", attempts=15, quick=1)
def downloading(rng: random.Random, n: int) -> Attempts:
    """What has the name of the text is the whole text, and else nothing has it."""
    body = "\n".join(TEXTS).encode()
    server, address = serve(body, seconds=0.3)
    digest = hashlib.sha256(body).hexdigest()

    def job(folder: Path) -> None:
        for path in folder.glob("tmp*"):  # the downloader's own unfinished files
            path.unlink()
        assert download(folder, address, digest).encode() == body

    try:
        return (yield from _killed(rng, n, job))
    finally:
        server.kill()
        server.wait()


def _writers(folder: Path) -> dict[str, Callable[[], object]]:
    """All that writes a file, by the name of what it writes."""
    return {
        "any.txt": lambda: write_whole(folder / "any.txt", "word " * 20_000),
        "tokenizer.json": lambda: TOKENIZER.save(folder / "tokenizer.json"),
        "tokens": lambda: write_tokens(folder / "tokens", range(400), 400),
        "model.safetensors": lambda: save_pretrained(tiny_gpt(), TOKENIZER, folder),
        "run.safetensors": lambda: _train(folder),
    }


def _refused(folder: Path, write: Callable[[], object], limit: Callable[[], None]) -> str:
    """The error of a writer in a child whose means are limited; empty if there is none."""

    def job() -> None:
        limit()
        write()

    return Child(job).wait().get("error", "")


@row("kill", "a disk that is full", attempts=50, quick=5)
def full_disk(rng: random.Random, n: int) -> Attempts:
    """No file may grow beyond a random size: an error that names it, and the old one intact."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writers = _writers(folder)
        for write in writers.values():
            finish(write)
        size = {file: (folder / file).stat().st_size for file in writers}
        for i in range(n):
            file = list(writers)[i % len(writers)]
            before, limit = contents(folder), rng.randrange(size[file] - 1)

            def limited(limit: int = limit) -> None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

            if file == "run.safetensors":  # the last checkpoint is of the tenth step
                (folder / file).unlink()
                Child(partial(_stop_at, folder, 10)).wait()
                before = contents(folder)
            error = _refused(folder, writers[file], limited)
            yield (
                f"{file} was written whole within {limit} of {size[file]} bytes"
                if not error
                else f"{error!r} does not name {file}"
                if "OSError" not in error or str(folder) not in error
                else f"{file}: the files before were not left as they were"
                if contents(folder) != before
                else f"{file}: something was left behind"
                if any(path.name[0] == "." for path in folder.iterdir())
                else None
            )
    return "OSError names the file, the last checkpoint stays"


def _stop_at(folder: Path, step: int) -> None:
    """Train, and leave off like a process that was killed after this step."""
    advance = loop._Run.advance

    def stopping(run, draw) -> None:
        if run.step == step:
            os._exit(0)
        advance(run, draw)

    loop._Run.advance = stopping
    _train(folder)


@row("kill", "a folder that cannot be written", attempts=20, quick=0)
def read_only(rng: random.Random, n: int) -> Attempts:
    """Nobody's rights: an error that names the file; a cache that has everything still serves."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = finish(lambda: str(assistant_in(folder)))
        writers = _writers(folder)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)

        def nobody() -> None:
            if os.getuid() == 0:  # whom no right can be taken from
                os.setuid(65534)

        for i in range(n):
            file = list(writers)[i % len(writers)]
            error = _refused(folder, writers[file], nobody)
            yield (
                None if "PermissionError" in error and str(folder) in error else f"{file}: {error}"
            )
            error = _refused(folder, lambda: _serves(folder, made), nobody)
            yield f"the cache did not serve: {error}" if error else None
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
    return "PermissionError names the file; what was cached is read"


def _serves(folder: Path, made: str) -> None:
    assert str(assistant_in(folder)) == made
    load_pretrained(made)
