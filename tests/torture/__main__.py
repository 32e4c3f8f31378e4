"""The command `python -m tests.torture`."""

import argparse
import importlib
import sys

import torch

from tests.torture import ROWS, report

for area in ("kill", "corrupt", "fuzz", "arithmetic", "misuse", "load"):
    importlib.import_module(f"tests.torture.{area}")  # which puts its rows into the table


def main() -> int:
    """Run the rows that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument("words", nargs="*", help="rows whose area or name has one of them")
    parser.add_argument("--quick", action="store_true", help="a slice of most rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="the names of the rows, and no more")
    options = parser.parse_args()
    names = {f"{row.area}: {row.what}": row for row in ROWS}
    chosen = [n for n in names if not options.words or any(w in n for w in options.words)]
    if options.list or not chosen:
        print("\n".join(chosen) or f"no row has any of {options.words} in its name")
        return 0 if chosen else 2
    rows = [names[n] for n in chosen if names[n].quick or not options.quick]
    return report(rows, options.seed, options.quick)


if __name__ == "__main__":
    torch.set_num_threads(1)  # the work is small, and a process that forks must have one thread
    sys.exit(main())
