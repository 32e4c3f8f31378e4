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


CONTENT = b"what the file should hold"


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """The names of GPT-2's files in a folder that is told to be tiktoken's, all with CONTENT."""
    right = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setattr(gpt2, "FILES", dict.fromkeys(gpt2.FILES, right))
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(gpt2.tiktoken, "get_encoding", lambda name: f"the encoding {name}")
    paths = [tmp_path / hashlib.sha1((gpt2.URL + f).encode()).hexdigest() for f in gpt2.FILES]
    for path in paths:
        path.write_bytes(CONTENT)
    return paths


@pytest.mark.parametrize("variable", ["TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"])
def test_gpt2_is_found_where_tiktoken_keeps_it(monkeypatch, tmp_path, kept, variable):
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    monkeypatch.setenv(variable, str(tmp_path))
    assert gpt2.cached_gpt2() == "the encoding gpt2"


def test_gpt2_is_not_downloaded_when_a_file_is_missing(kept):
    kept[1].unlink()
    assert gpt2.cached_gpt2() is None


def test_gpt2_is_not_downloaded_when_a_file_is_damaged(kept):
    kept[1].write_bytes(CONTENT[:-1])
    assert gpt2.cached_gpt2() is None


def test_gpt2_is_not_downloaded_when_tiktoken_keeps_nothing(monkeypatch, kept):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert gpt2.cached_gpt2() is None
