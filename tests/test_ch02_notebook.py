import hashlib

import matplotlib.pyplot as plt
import numpy as np
import pytest

from ch02_tokenization import gpt2
from ch02_tokenization.figures import draw_merges, draw_tokens, draw_windows, readable


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (b" owl", "·owl"),
        (b"\n\t", "⏎→"),
        ("Сова".encode(), "Сова"),
        ("é".encode(), "é"),
        ("é".encode()[:1], r"\xc3"),
        ("猫".encode(), r"\xe7\x8c\xab"),
        (b"\x00", r"\x00"),
        (b"", ""),
    ],
)
def test_tokens_are_shown_as_text_where_the_font_can(token, shown):
    assert readable(token) == shown


@pytest.fixture
def texts_drawn():
    yield lambda: [text.get_text() for text in plt.gcf().axes[0].texts]
    plt.close("all")


def test_a_long_row_of_tokens_goes_on_in_the_next_line(texts_drawn):
    draw_tokens([("label", [b"token"] * 31)], "title")
    assert texts_drawn().count("token") == 31
    boxes = plt.gcf().axes[0].patches
    assert len({round(box.get_y(), 3) for box in boxes}) > 1


def test_merges_that_do_nothing_are_not_drawn(texts_drawn):
    draw_merges("aaab", [("a", "a"), ("x", "y"), ("a", "b")], "title")
    assert "merge 2: x + y" not in texts_drawn()
    assert texts_drawn()[-3:] == ["merge 3: a + b", "aa", "ab"]


def test_windows_show_inputs_above_targets(texts_drawn):
    inputs, targets = np.array([[2, 0, 1]]), np.array([[0, 1, 2]])
    draw_windows(inputs, targets, ["a", "b", "END"], 2, "title")
    assert texts_drawn() == ["input", "END", "a", "b", "target", "a", "b", "END"]


def test_gpt2_is_not_downloaded(monkeypatch, tmp_path):
    def refuse(*_):
        raise AssertionError("tiktoken was asked for GPT-2")

    monkeypatch.setattr(gpt2.tiktoken, "get_encoding", refuse)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert gpt2.cached_gpt2() is None
    name = hashlib.sha1((gpt2.URL + gpt2.FILES[0]).encode()).hexdigest()
    (tmp_path / name).write_bytes(b"one of the two")
    assert gpt2.cached_gpt2() is None


@pytest.mark.parametrize("variable", ["TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"])
def test_gpt2_is_found_where_tiktoken_keeps_it(monkeypatch, tmp_path, variable):
    for file in gpt2.FILES:
        (tmp_path / hashlib.sha1((gpt2.URL + file).encode()).hexdigest()).write_bytes(b"")
    monkeypatch.setattr(gpt2.tiktoken, "get_encoding", lambda name: f"the encoding {name}")
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    assert gpt2.cached_gpt2() == "the encoding gpt2"
