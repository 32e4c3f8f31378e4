"""What the chapter's notebook leans on: the model in NumPy, and the small experiments."""

import json
import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from ch04_model import numpy_gpt, studies
from ch04_model.model import GPT, GPTConfig, RMSNorm

V, CONTEXT = 37, 13
SIZES = {"vocab_size": V, "context_length": CONTEXT, "n_layers": 3, "d_ff": 17}
CONFIGS = {
    "gpt2": GPTConfig.gpt2(**SIZES, n_heads=5, d_model=35),
    "llama": GPTConfig.llama(**SIZES, n_heads=6, n_kv_heads=2, d_model=12),
    "qwen3": GPTConfig.qwen3(**SIZES, n_heads=6, n_kv_heads=2, d_model=11, head_dim=14),
    "a mixture": GPTConfig(**SIZES, n_heads=2, d_model=22, head_dim=10, norm="layer", bias=True),
}
END = 7


def make(config):
    torch.manual_seed(0)
    model = GPT(config)
    with torch.no_grad():
        for weights in model.parameters():
            weights += torch.randn_like(weights) / 5
    return model


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("n", [1, CONTEXT])
def test_the_model_in_numpy_has_the_same_logits(config, n):
    model = make(config)
    ids = torch.randint(V, (1, n), generator=torch.Generator().manual_seed(1))
    logits = numpy_gpt.numpy_gpt(ids[0].tolist(), numpy_gpt.numpy_weights(model), config)
    assert logits.shape == (n, V) and logits.dtype == "float32"
    assert_close(torch.from_numpy(logits), model(ids)[0].detach(), rtol=1e-4, atol=1e-4)


def test_numpys_curves_and_norms_are_torchs():
    x = torch.randn(5, 7, dtype=torch.float64)
    weights = {"feed_forward.up.weight": torch.eye(7), "feed_forward.down.weight": torch.eye(7)}
    arrays = {name: matrix.double().numpy() for name, matrix in weights.items()}
    bent = torch.from_numpy(numpy_gpt.feed_forward(x.numpy(), arrays))
    assert_close(bent, F.gelu(x, approximate="tanh"))
    arrays["feed_forward.gate.weight"] = arrays["feed_forward.up.weight"]
    assert_close(torch.from_numpy(numpy_gpt.feed_forward(x.numpy(), arrays)), F.silu(x) * x)
    scale = torch.randn(7, dtype=torch.float64)
    normed = numpy_gpt.norm(x.numpy(), {"n.weight": scale.numpy()}, "n", GPTConfig())
    assert_close(torch.from_numpy(normed), F.rms_norm(x, (7,), scale, 1e-6))


def test_whole_texts_by_pencil():
    ids = torch.tensor([1, 2, END, 3, END, 4, 5, 6, END])
    assert studies.whole_texts(ids, END).tolist() == [
        [END, 1, 2, END, -100],
        [END, 3, END, -100, -100],
        [END, 4, 5, 6, END],
    ]


def test_windows_by_pencil():
    assert studies.windows(torch.arange(6), 3).tolist() == [
        [0, 1, 2],
        [1, 2, 3],
        [2, 3, 4],
        [3, 4, 5],
    ]
    assert studies.windows(torch.arange(6), 3, step=2).tolist() == [[0, 1, 2], [2, 3, 4]]


def test_padding_does_not_count_in_the_loss():
    model, pad = make(CONFIGS["qwen3"]), studies.PADDING
    text = [END, 1, 2, 3, END]
    padded = torch.tensor([text + [pad] * 4, [END, 5, END] + [pad] * 6])
    logits = model(torch.tensor([text])[:, :-1])[0], model(torch.tensor([[END, 5]]))[0]
    nats = F.cross_entropy(logits[0], torch.tensor(text[1:]), reduction="sum")
    nats = nats + F.cross_entropy(logits[1], torch.tensor([5, END]), reduction="sum")
    assert studies.validation_loss(model, padded) == pytest.approx(nats.item() / 6, rel=1e-5)


def test_story_data_has_the_floor_of_its_own_texts():
    data = studies.story_data(1200, form="poem", vocab_size=300)
    n_texts = (data.validation == data.end).sum()
    assert n_texts == studies.N_VALIDATION and data.validation[-1] == data.end
    assert 0 < data.floor < math.log(300) and data.bytes_per_token > 1
    everything = studies.story_data(1200, vocab_size=300)
    assert len(everything.train) > len(data.train)


def test_training_learns_what_is_certain():
    torch.manual_seed(0)
    model = GPT(CONFIGS["qwen3"])
    rows = studies.windows(torch.arange(60) % 3, 9)
    losses = studies.train(model, rows, steps=60, lr=1e-2)
    assert len(losses) == 60 and losses[0] == pytest.approx(math.log(V), abs=0.1)
    assert losses[-1] < 1


def test_the_same_seed_trains_the_same_model():
    rows, losses = studies.windows(torch.arange(60) % 5, 9), []
    for _ in range(2):
        torch.manual_seed(0)
        losses.append(studies.train(GPT(CONFIGS["gpt2"]), rows, steps=3, seed=2))
    assert losses[0] == losses[1]


def test_recipes_differ_in_what_their_names_say_and_are_of_one_size():
    recipes = studies.recipes(512)
    old = recipes["GPT-2 (2019)"]
    assert recipes["RMS norm"].norm == "rms" and old.norm == "layer"
    assert recipes["rotary positions"].positions == "rotary" and old.positions == "learned"
    assert recipes["today's (Qwen3)"].qk_norm and not old.qk_norm
    with torch.device("meta"):
        sizes = [GPT(config).n_parameters for config in recipes.values()]
    assert max(sizes) < 1.06 * min(sizes)  # the table of learned positions is 3 % of it


@pytest.mark.parametrize(
    ("scheme", "inner", "last"),
    [
        ("naive", 1, 1),
        ("1/sqrt(d)", 0.125, 0.125),
        ("gpt2", 0.02, 0.02 / 6**0.5),
        ("zero", 0.125, 0),
    ],
)
def test_schemes_draw_with_their_spread(scheme, inner, last):
    model = GPT(GPTConfig.gpt2(vocab_size=V, n_layers=3, n_heads=4, d_model=64))
    studies.initialise(model, scheme)
    block = model.blocks[1]
    # The spread of 12,288 samples is within 2.6 % of the truth, four standard errors.
    assert block.attention.qkv.weight.std().item() == pytest.approx(inner, rel=0.026)
    assert block.attention.out.weight.std().item() == pytest.approx(last, rel=0.05)
    assert (block.feed_forward.up.bias == 0).all()


def test_an_unknown_scheme_is_refused():
    with pytest.raises(ValueError, match="'xavier'"):
        studies.initialise(GPT(CONFIGS["gpt2"]), "xavier")


def test_scale_by_depth_of_blocks_that_add_nothing_is_level():
    model = GPT(CONFIGS["llama"])
    studies.initialise(model, "zero")
    torch.nn.init.normal_(model.head.weight)
    ids = torch.randint(V, (2, 9), generator=torch.Generator().manual_seed(1))
    stream, gradient = studies.scale_by_depth(model, ids)
    embedded = model.token_embedding(ids[:, :-1]).square().mean().sqrt()
    assert_close(stream, embedded.detach().expand(3))
    assert_close(gradient, gradient[:1].expand(3))
    assert all(weights.grad is None for weights in model.parameters())


def test_the_study_as_committed_covers_every_recipe_with_every_seed():
    study = json.loads(studies.RESULTS.read_text())
    ran = {(run["recipe"], run["seed"]) for run in study["runs"]}
    assert ran == {(name, seed) for name in studies.recipes(512) for seed in studies.SEEDS}
    for run in study["runs"]:
        assert study["floor"] < run["validation"] < math.log(512)


def test_eps_of_a_norm_is_no_tensor_that_half_could_round_to_zero():
    assert not list(RMSNorm(5).buffers())
