"""Appendix: several processes train as one does, and the planner agrees with what was published."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from appendix_performance.plan import A100, PUBLISHED, Plan, Shape, estimate

ROOT = Path(__file__).parents[1]


def torchrun(n, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={n}", "-m", "appendix_performance.distributed", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.splitlines()


def test_two_processes_train_the_weights_that_one_does_and_send_what_was_predicted():
    lines = torchrun(2)
    assert len(lines) == 8
    assert {tuple(line.split()[:2]) for line in lines} == {
        (kind, who) for kind in ("data", "sharded", "tensor", "pipeline") for who in ("by", "torch")
    }
    for line in lines:
        assert "weights equal those of one process" in line
        sent, predicted = re.findall(r"\d[\d,]+", line)
        assert sent == predicted


def test_a_sharded_checkpoint_loads_under_another_number_of_processes(tmp_path):
    assert torchrun(2, "save", str(tmp_path)) == ["2 processes wrote 2 files"]
    assert "1 processes read them: weights equal" in torchrun(1, "load", str(tmp_path))[-1]


@pytest.mark.parametrize(("sharded", "bytes_per_weight"), [(False, 4 + 12 / 64), (True, 16 / 64)])
def test_state_of_7_5b_weights_on_64_gpus_is_that_of_the_zero_paper(sharded, bytes_per_weight):
    # Rajbhandari et al. 2019, figure 1: 31.4 GB with the optimizer sharded, 1.9 GB with everything.
    shape = Shape(n_layers=36, d_model=4096, vocab_size=51_200, context_length=1024, d_ff=16_384,
                  n_heads=32)  # fmt: skip
    found = estimate(shape, Plan(64, batch=64, sharded=sharded)).state_bytes
    assert found == pytest.approx(shape.parameters * bytes_per_weight)
    assert found / 1e9 == pytest.approx(1.9 if sharded else 31.4, rel=0.02)


def test_parameters_are_those_of_the_published_models():
    sizes = [124e6, 1.7e9, 7.5e9, 18.4e9, 76.1e9, 145.6e9, 65.2e9]
    for run, size in zip(PUBLISHED, sizes, strict=True):
        assert run.shape.parameters == pytest.approx(size, rel=0.04), run.name


def test_every_published_run_fits_into_memory_and_is_timed_within_two_fifths():
    for run in PUBLISHED:
        found = estimate(run.shape, run.plan, run.machine)
        assert found.memory < run.machine.memory
        assert found.tokens_per_second == pytest.approx(run.tokens_per_second, rel=0.4), run.name


SHAPE = PUBLISHED[1].shape


def test_more_stages_wait_longer_unless_there_are_more_micro_batches():
    assert Plan(8, batch=8, pipeline=8).bubble == 7 / 8
    assert Plan(8, batch=64, pipeline=8).bubble == 7 / 64
    few, many = (estimate(SHAPE, Plan(8, batch=n, pipeline=8)) for n in (8, 64))
    assert few.utilisation < many.utilisation


def test_recomputing_saves_memory_and_costs_at_most_a_third():
    plain, light = (estimate(SHAPE, Plan(8, batch=64, recompute=r)) for r in (False, True))
    assert light.activation_bytes < plain.activation_bytes / 2
    assert 1 < light.step_seconds / plain.step_seconds < 4 / 3


def test_a_faster_wire_never_makes_a_step_slower():
    from dataclasses import replace

    plan = Plan(64, batch=512, tensor=8, sharded=True)
    slow = estimate(SHAPE, plan, replace(A100, inside=1e9, outside=1e8))
    assert estimate(SHAPE, plan).step_seconds < slow.step_seconds


@pytest.mark.parametrize(
    ("arguments", "match"),
    [((10, 64, 1, 4), "10 GPUs.*4 x 1"), ((8, 12, 1, 1), "batch of 12.*1 for 8")],
)
def test_plans_that_do_not_divide_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        Plan(*arguments)
