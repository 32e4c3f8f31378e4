import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from ch01_overview.corpus import stories
from ch02_tokenization.tokenizer import END_OF_TEXT, train_bpe
from ch03_attention.attention import attention_weights, causal_mask, scaled_dot_product_attention
from ch03_attention.memory import LargestTensor, saved_for_backward
from ch03_attention.one_layer import (
    IGNORED,
    Bigram,
    OneLayer,
    accuracy,
    bits_per_byte,
    encode_texts,
    head_weights,
    pad_rows,
    train,
)
from ch03_attention.studies import (
    SCHEMES,
    PositionModel,
    alibi_bias,
    loss_by_position,
    questions,
    train_on_windows,
)

V = 17
TALES = stories(60, seed=3)
TEXTS = [story.text for story in TALES]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(TEXTS, 400, [END_OF_TEXT])


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def model(**options):
    torch.manual_seed(0)
    made = OneLayer(V, d_model=20, n_heads=2, context_length=11, **options)
    torch.nn.init.normal_(made.head.weight)  # zero at first, when all outputs would be equal
    return made


def ids(*shape):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(1))


def test_a_text_stands_between_two_end_of_text_tokens(tokenizer):
    end = tokenizer.special_ids[END_OF_TEXT]
    row = encode_texts(["Mia gave Ben the kite.", ""], tokenizer)
    assert row[0] == [end, *tokenizer.encode("Mia gave Ben the kite."), end]
    assert row[1] == [end, end]


def test_a_control_token_in_a_text_is_text(tokenizer):
    assert encode_texts([END_OF_TEXT], tokenizer)[0].count(tokenizer.special_ids[END_OF_TEXT]) == 2


def test_rows_of_any_length_make_a_batch_in_which_padding_is_ignored():
    inputs, targets = pad_rows([[3, 5, 7, 3], [3, 11]])
    assert inputs.tolist() == [[3, 5, 7], [3, 11, 0]]
    assert targets.tolist() == [[5, 7, 3], [11, IGNORED, IGNORED]]


def test_the_first_loss_is_log_v():
    losses = train(OneLayer(V, 20, 2, 11), [[3, 5, 7, 3]] * 3, n_steps=1, batch_size=3)
    assert math.isclose(losses[0], math.log(V), rel_tol=1e-5)


def test_future_tokens_do_not_change_past_scores():
    changed = ids(2, 7)
    changed[:, 4] = (changed[:, 4] + 1) % V
    before, after = model()(ids(2, 7)), model()(changed)
    assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_a_text_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="12 tokens are too many for a context of 11"):
        model()(ids(1, 12))


def test_without_its_attention_the_model_is_a_bigram_model():
    silent = model()
    torch.nn.init.zeros_(silent.attention.out.weight)
    scores = silent(torch.tensor([[3, 5, 7], [11, 2, 7]]))
    assert_close(scores[0, 2], scores[1, 2])


def test_head_weights_are_those_that_make_the_output():
    made, tokens = model(), ids(2, 7)
    weights = head_weights(made, tokens)
    x = made.embedding(tokens)
    q, k, v = made.attention.project(x, made.rope(7))
    assert_close(weights, attention_weights(q, k, causal_mask(7)))
    gathered = made.attention.out((weights @ v).transpose(1, 2).flatten(2))
    assert_close(made.head(x + gathered), made(tokens))


def test_bigram_scores_are_distributions_that_follow_the_counts():
    scores = Bigram([[3, 5, 3, 5, 3, 7]], V)(torch.tensor([[3, 5, 11]]))
    assert_close(scores.exp().sum(-1), torch.ones(1, 3))
    # After 3: 5 twice, 7 once, and one imaginary pair in which 5 has (2 + 1) / (5 + 17).
    assert_close(scores[0, 0, 5].exp(), torch.tensor((2 + 3 / 22) / 4))
    assert scores[0, 1].argmax() == 3


def test_bits_per_byte_of_a_uniform_model_count_every_token_once():
    rows = [[3, 5, 7, 3], [3, 11, 3], [3, 3]]
    uniform = torch.zeros(V, V)
    bits = bits_per_byte(lambda x: uniform[x], rows, 13)
    assert math.isclose(bits, 6 * math.log2(V) / 13, rel_tol=1e-6)


def test_bits_per_byte_do_not_depend_on_the_batches():
    rows = [ids(n).tolist() for n in (3, 9, 5, 2, 7)]
    all_at_once = bits_per_byte(model(), rows, 29)
    assert math.isclose(bits_per_byte(model(), rows, 29, batch_size=2), all_at_once, rel_tol=1e-5)


def test_accuracy_counts_the_likeliest_first_token(tokenizer):
    right = tokenizer.encode(" kite")[0]
    always = F.one_hot(torch.tensor(right), tokenizer.vocab_size).float()
    cases = [("Mia has the", "kite"), ("Ben has the", "drum"), ("Now", "kite")]
    guess = accuracy(lambda x: always.expand(*x.shape, -1), cases, tokenizer)
    assert math.isclose(guess, 2 / 3)


def test_training_learns_to_look_back():
    # Behind 1 comes the token that stood behind 0: no bigram can know it.
    rows = [[0, a, b, 1, a] for a in range(2, V) for b in range(2, V)]
    torch.manual_seed(0)
    learner = OneLayer(V, 32, 2, 11)
    train(learner, rows, n_steps=150)
    inputs, targets = pad_rows(rows)
    assert (learner(inputs)[:, 3].argmax(-1) == targets[:, 3]).float().mean() > 0.95
    assert (Bigram(rows, V)(inputs)[:, 3].argmax(-1) == targets[:, 3]).float().mean() < 0.2


def test_training_twice_gives_the_same_losses():
    def losses():
        torch.manual_seed(0)
        return train(OneLayer(V, 20, 2, 11), [ids(n).tolist() for n in range(3, 9)], 5, 3)

    assert losses() == losses()


def test_questions_are_beginnings_of_the_tales_with_the_word_that_follows():
    asked = questions(TALES)
    tales = [story for story in TALES if story.facts.form == "tale"]
    assert {len(cases) for cases in asked.values()} == {len(tales)}
    for kind, cases in asked.items():
        for story, (beginning, word) in zip(tales, cases, strict=True):
            assert story.text.startswith(f"{beginning} {word}")
            assert word == (story.facts.thing.split()[-1] if kind == "what" else story.facts.holder)


def test_only_tales_are_asked_about():
    assert not any(questions([s for s in TALES if s.facts.form != "tale"]).values())


def test_alibi_by_pencil():
    inf = float("inf")
    assert alibi_bias(2, 2).tolist() == [
        [[0, -inf], [-(2**-4), 0]],
        [[0, -inf], [-(2**-8), 0]],
    ]
    assert_close(alibi_bias(8, 3)[:, 1, 0], -(2.0 ** -torch.arange(1, 9)))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_causal(scheme):
    torch.manual_seed(0)
    made = PositionModel(scheme, V, 11, d_model=20, n_heads=2)
    torch.nn.init.normal_(made.head.weight)
    changed = ids(2, 7)
    changed[:, 4] = (changed[:, 4] + 1) % V
    assert_close(made(ids(2, 7))[:, :4], made(changed)[:, :4])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_order_of_the_past_matters_unless_there_are_no_positions(scheme):
    torch.manual_seed(0)
    made = PositionModel(scheme, V, 11, d_model=20, n_heads=2)
    torch.nn.init.normal_(made.head.weight)
    text = torch.tensor([[3, 5, 7, 11]])
    same = torch.allclose(made(text)[:, -1], made(text[:, [1, 2, 0, 3]])[:, -1], atol=1e-5)
    assert same == (scheme == "none")


def test_another_scheme_is_refused():
    with pytest.raises(ValueError, match="no positions are called 'relative'; there are none, "):
        PositionModel("relative", V, 11)


def test_a_model_without_a_mask_sees_the_future():
    torch.manual_seed(0)
    made = PositionModel("rotary", V, 11, d_model=20, n_heads=2, causal=False)
    torch.nn.init.normal_(made.head.weight)
    changed = ids(1, 7)
    changed[:, 6] = (changed[:, 6] + 1) % V
    assert not torch.allclose(made(ids(1, 7))[:, 0], made(changed)[:, 0])


def test_training_on_windows_lowers_the_loss():
    stream = torch.arange(300) % V
    torch.manual_seed(0)
    made = PositionModel("rotary", V, 13, d_model=20, n_heads=2)
    before = loss_by_position(made, stream, 13)
    assert_close(before, torch.full((13,), math.log(V)))
    train_on_windows(made, stream, length=7, n_steps=40)
    assert loss_by_position(made, stream, 13)[:7].mean() < 0.5


def test_the_largest_tensor_of_the_formula_is_the_table():
    q, k, v = (randn(1, 3, 29, 5, seed=s) for s in range(3))
    with LargestTensor() as seen:
        scaled_dot_product_attention(q, k, v)
    assert seen.n_bytes == 4 * 3 * 29**2


def test_what_is_saved_for_the_gradient_is_counted_once():
    x = randn(7, 5).requires_grad_()
    assert saved_for_backward(lambda: x * x) == 4 * 35
    assert saved_for_backward(lambda: x + 1) == 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_window_hides_what_is_further_back(scheme):
    torch.manual_seed(0)
    model, ids = PositionModel(scheme, 11, context_length=13), torch.randint(11, (1, 13))
    torch.nn.init.normal_(model.head.weight)
    model.window = 3
    other = ids.clone()
    other[0, 4] = (other[0, 4] + 1) % 11
    changed = (model(ids) - model(other)).abs().amax(-1)[0] > 1e-6
    assert changed.nonzero().flatten().tolist() == [4, 5, 6]
