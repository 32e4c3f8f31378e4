"""Facts about watching a model learn, and about the small experiments."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ch01_overview import study
from ch01_overview.corpus import stories
from ch01_overview.study import run_studies
from ch02_tokenization.tokenizer import END_OF_TEXT, train_bpe
from ch04_model.model import GPT, GPTConfig
from ch05_pretraining.evaluation import evaluate
from ch05_pretraining.small import encode, fit, small_config, small_data, small_model
from ch05_pretraining.studies import OPTIMIZERS, SGD, load_study
from ch05_pretraining.watching import attention_patterns, excess, marked_stories


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe([story.text for story in stories(50, seed=3)], 300, (END_OF_TEXT,))


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    sizes = {"n_layers": 3, "n_heads": 2, "d_model": 20}
    return GPT(GPTConfig(tokenizer.vocab_size, 1024, **sizes)).eval()


def test_marked_stories_are_the_stories_and_their_letters_cost_what_the_text_does():
    for marked, story in zip(marked_stories(40, 9), stories(40, 9), strict=True):
        assert (marked.text, marked.facts) == (story.text, story.facts)
        assert len(marked.nats) == len(marked.text)
        assert sum(marked.nats) == pytest.approx(-story.log_prob)
        assert min(marked.nats) >= 0


def test_the_last_words_begin_with_what_the_holder_does():
    for marked in marked_stories(40, 9):
        last = marked.text[marked.last_words :]
        assert (marked.facts.holder or "") in last
        assert bool(last) == (marked.facts.form != "poem")


def test_the_excess_over_all_kinds_is_the_whole_excess(tokenizer, model):
    told = marked_stories(3, 4)
    paid = 0.0
    for story in told:
        ids = encode([story.text], tokenizer)[:-1]  # the end of the text is not counted
        log_p = model(ids[None, :-1])[0].log_softmax(-1)
        targets = ids[1:]
        paid -= log_p.gather(-1, targets[:, None]).sum().item()
    true = sum(sum(story.nats) for story in told)
    assert sum(excess(model, tokenizer, told).values()) == pytest.approx(
        (paid - true) / 3, rel=1e-4
    )


def test_attention_patterns_are_causal_distributions(tokenizer, model):
    ids = torch.tensor(tokenizer.encode(stories(1, 2)[0].text)[:29])
    patterns = attention_patterns(model, ids)
    assert patterns.shape == (3, 2, 29, 29)
    assert_close(patterns.sum(-1), torch.ones(3, 2, 29))
    assert (patterns.triu(1) == 0).all()


def test_fit_learns_and_the_same_seed_learns_the_same():
    data = small_data(60, 5, vocab_size=300)
    losses = []
    for _ in range(2):
        model = small_model(data.tokenizer.vocab_size, d_model=32)
        losses.append(fit(model, data.train, small_config(20)))
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0] - 1
    assert evaluate(model, data.val, 64) > data.floor


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_torchs(momentum):
    ours = nn.Parameter(torch.randn(7, 3, generator=torch.Generator().manual_seed(1)))
    theirs = nn.Parameter(ours.detach().clone())
    pair = (SGD([ours], 0.1, momentum), ours), (torch.optim.SGD([theirs], 0.1, momentum), theirs)
    for seed in range(5):
        for optimizer, place in pair:
            place.grad = torch.randn(7, 3, generator=torch.Generator().manual_seed(seed))
            optimizer.step()
    assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["sweep", "schedules", "batches", "seeds", "scaling"])
def test_every_study_says_how_to_have_it_again(name):
    study = load_study(name)
    assert study["command"].startswith(f"python -m ch05_pretraining.studies {name}")
    assert study["rows"] and {"python", "torch", "machine"} <= study.keys()


def test_the_sweep_knows_every_optimizer():
    assert {row["optimizer"] for row in load_study("sweep")["rows"]} == set(OPTIMIZERS)
    with pytest.raises(ValueError, match=r"nothing\.json is missing"):
        load_study("nothing")


def test_a_study_is_printed_without_its_long_columns_and_written_whole(tmp_path, capsys):
    def halves(effort):
        yield {"steps": round(4 * effort), "losses": [3.0, 1.5]}

    folder = tmp_path / "chapter" / "studies"
    folder.parent.mkdir()
    run_studies({"halves": halves}, folder, ("losses",), ["halves", "--effort", "2"])
    assert capsys.readouterr().out == "halves {'steps': 8}\n"
    found = study.load_study(folder, "halves")
    assert found["rows"] == [{"steps": 8, "losses": [3.0, 1.5]}]
    assert found["command"] == "python -m chapter.studies halves --effort 2"
    assert {"python", "torch", "machine", "threads", "seconds"} <= found.keys()
