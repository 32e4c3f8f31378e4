"""Talk to a model that was trained on this machine.

    python -m ch06_alignment.chat                         # the assistant, trained on first use
    python -m ch06_alignment.chat --corpus shakespeare    # a model that continues what you type
    echo "Tell a tale about Mia the shy owl." | python -m ch06_alignment.chat

Ctrl-C stops at any moment; the next start goes on from there. Ctrl-D, an empty line or the end of
the piped questions ends the conversation.
"""

import argparse
import sys
from collections.abc import Iterator

import torch

from ch02_tokenization.tokenizer import BPETokenizer
from ch04_model.huggingface import load_pretrained
from ch04_model.model import GPT, stream
from ch05_pretraining.recipes import PRESETS, pretrained
from ch06_alignment.alignment import END, format_chat
from ch06_alignment.finetune import TEMPERATURE, assistant_folder

__all__ = ["answer", "fit", "main", "spell"]

ROOM = 100  # tokens kept free for an answer; one that takes more pushes the oldest out
WELCOME = """
Ask for a tale, a poem or a talk, then ask about it. For example:
  Tell a tale about Mia the shy owl.      Who has the ... at the end?
  Write a poem about the river.           Let Max and Ivy talk.
An empty line ends the conversation.
"""


def spell(tokenizer: BPETokenizer, tokens: Iterator[int]) -> Iterator[str]:
    """Text for tokens as they come, a character as soon as its last byte is there."""
    waiting: list[int] = []
    for token in tokens:
        waiting.append(token)
        text = tokenizer.decode(waiting)
        if not text.endswith("\ufffd") or len(waiting) > 4:  # no character has more than 4 bytes
            yield text
            waiting = []
    if waiting:
        yield tokenizer.decode(waiting)


def fit(
    messages: list[dict[str, str]], tokenizer: BPETokenizer, longest: int
) -> list[dict[str, str]]:
    """The newest messages that take at most `longest` tokens; the oldest turns are forgotten.

    Raises:
        ValueError: if the last message alone takes more.
    """
    kept = messages[-1:]
    if (n := len(format_chat(kept, tokenizer))) > longest:
        raise ValueError(f"that is {n} tokens; this model reads {longest} at most")
    for first in range(len(messages) - 3, -1, -2):  # a turn more, as long as there is room
        if len(format_chat(messages[first:], tokenizer)) > longest:
            break
        kept = messages[first:]
    return kept


def answer(
    model: GPT,
    tokenizer: BPETokenizer,
    messages: list[dict[str, str]],
    generator: torch.Generator | None = None,
) -> Iterator[str]:
    """The assistant's reply to a conversation, piece by piece."""
    context_length = model.config.context_length
    messages = fit(messages, tokenizer, context_length - ROOM)
    ids, end = format_chat(messages, tokenizer), tokenizer.special_ids[END]
    tokens = stream(
        model,
        torch.tensor([ids]),
        context_length,
        temperature=TEMPERATURE,
        stop_ids=(end,),
        generator=generator,
    )
    return spell(tokenizer, (token.item() for token in tokens if token.item() != end))


def complete(model: GPT, tokenizer: BPETokenizer, text: str) -> Iterator[str]:
    """What a model of plain text writes after `text`."""
    ids = tokenizer.encode(text)[-model.config.context_length // 2 :]
    tokens = stream(model, torch.tensor([ids]), 200, temperature=0.8)
    return spell(tokenizer, (token.item() for token in tokens))


def ask(prompt: str) -> Iterator[str]:
    """The lines that somebody types, or pipes in."""
    while True:
        try:
            line = input(prompt if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if not line and sys.stdin.isatty():
            return
        if line:
            yield line


def show(pieces: Iterator[str]) -> str:
    """Print pieces as they come, and return the whole."""
    whole = ""
    for piece in pieces:
        print(piece, end="", flush=True)
        whole += piece
    print("\n", flush=True)
    return whole


def chat(model: GPT, tokenizer: BPETokenizer) -> None:
    """Answer question after question, with the conversation so far in mind."""
    messages: list[dict[str, str]] = []
    for line in ask("> "):
        asked = [*messages, {"role": "user", "content": line}]
        try:
            reply = show(answer(model, tokenizer, asked))
        except ValueError as error:
            print(f"{error}\n")
            continue
        messages = [*asked, {"role": "assistant", "content": reply}]


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing, show the report card, and talk."""
    parser = argparse.ArgumentParser(prog="python -m ch06_alignment.chat")
    parser.add_argument("--corpus", default="stories", help="stories, shakespeare or a UTF-8 file")
    parser.add_argument("--preset", default="book", help=", ".join(PRESETS))
    options = parser.parse_args(arguments)
    if options.corpus == "stories" and options.preset != "book":
        parser.error("the assistant is made of the preset book; --preset is for another --corpus")
    if options.corpus == "stories":
        folder = assistant_folder()
        model, tokenizer = load_pretrained(folder)
        print((folder / "report_card.txt").read_text())
        print(WELCOME)
        chat(model, tokenizer)
    else:
        model, tokenizer = pretrained(options.corpus, options.preset)
        print("Type the beginning of a text; an empty line ends.\n")
        for line in ask("> "):
            show(complete(model, tokenizer, line))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. Start it again to go on from here.")
