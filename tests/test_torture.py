"""A slice of the torture table, so that what it has found stays mended: `tests/torture`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the table kills forks of itself")
ROOT = Path(__file__).parents[1]
AREAS = ("kill", "corrupt", "fuzz", "numbers", "misuse", "load")
LINE = re.compile(r"(\w+) +(.+?) {2,}([\d,]+) +([\d,]+) +[\d.]+")


def torture(*options):
    command = [sys.executable, "-m", "tests.torture", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done, [m.groups() for m in map(LINE.match, done.stdout.splitlines()) if m]


@pytest.fixture(scope="module")
def table():
    return torture("--quick")


@pytest.mark.parametrize("area", AREAS)
def test_a_slice_of_every_area_loses_nothing(table, area):
    done, lines = table
    rows = [line for line in lines if line[0] == area]
    assert rows, done.stdout + done.stderr
    for _, what, attempts, losses in rows:
        assert (attempts != "0", losses) == (True, "0"), (what, done.stdout, done.stderr)


def test_the_exit_code_of_a_table_without_losses_is_0_and_the_last_line_adds_up(table):
    done, lines = table
    assert done.returncode == 0, done.stdout
    numbers = [[int(n.replace(",", "")) for n in line[2:]] for line in lines]
    assert [sum(column) for column in zip(*numbers[:-1], strict=True)] == numbers[-1]


def test_a_loss_and_an_error_are_counted_and_make_the_exit_code_1(capsys):
    from tests.torture import Row, report

    def one_loss(rng, n):
        yield from [None, "a file", None]

    def one_error(rng, n):
        yield None
        raise KeyError(n)

    def no_attempt(rng, n):
        yield from ()

    rows = [Row("test", f.__name__, 3, 2, f) for f in (one_loss, one_error, no_attempt)]
    assert report(rows[:1], seed=0, quick=True) == 1
    assert report(rows[2:], seed=0, quick=True) == 1
    assert report(rows, seed=0, quick=True) == 1
    said = capsys.readouterr().out
    assert "lost: a file" in said
    assert "KeyError: 2" in said


def test_a_process_that_dies_is_a_loss(capsys):
    from tests.torture import Row, report

    def dies(rng, n):
        yield None
        os._exit(0)

    assert report([Row("test", "dies", 1, 1, dies)], seed=0, quick=True) == 1
    assert "ended" in capsys.readouterr().out


def test_the_same_seed_makes_the_same_attempts():
    from tests.torture import Row

    def draws(rng, n):
        yield str(rng.random())

    row = Row("test", "draws", 1, 1, draws)
    assert row.run(seed=3).losses == row.run(seed=3).losses != row.run(seed=4).losses
