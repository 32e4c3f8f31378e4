"""Studies: what takes longer than a notebook may is run once, and kept as a JSON file.

A study is a generator of rows, named by its function. The file says how the rows were had: the
command, the versions, the machine and the seconds. The notebook plots the file.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import perf_counter

import torch

from ch01_overview.files import write_whole

__all__ = ["conditions", "load_study", "run_studies"]


def conditions(command: str) -> dict:
    """Under what a study was run: the command, the versions and the machine."""
    return {
        "command": command,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def load_study(folder: Path, name: str) -> dict:
    """What a study found: "rows", and under which conditions.

    Raises:
        ValueError: if there is no such study.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        module = f"{folder.parent.name}.studies"
        raise ValueError(f"{path.name} is missing: run python -m {module} {name}")
    return json.loads(path.read_text("utf-8"))


def run_studies(
    studies: Mapping[str, Callable[[float], Iterable[dict]]],
    folder: Path,
    untold: Iterable[str],
    arguments: list[str] | None = None,
) -> None:
    """The command line of a chapter's studies: run one, or all, and write each to `folder`.

    Rows are printed as they come, without the columns `untold`, which are long.
    """
    module = f"python -m {folder.parent.name}.studies"
    parser = argparse.ArgumentParser(prog=module)
    parser.add_argument("study", choices=[*studies, "all"])
    parser.add_argument("--effort", type=float, default=1.0, help="times the number of steps")
    options = parser.parse_args(arguments)
    folder.mkdir(exist_ok=True)
    for name in studies if options.study == "all" else [options.study]:
        began, rows = perf_counter(), []
        for row in studies[name](options.effort):
            rows.append(row)
            print(name, {k: v for k, v in row.items() if k not in untold}, flush=True)
        how = conditions(f"{module} {name} --effort {options.effort:g}")
        how |= {"threads": torch.get_num_threads(), "seconds": round(perf_counter() - began)}
        write_whole(folder / f"{name}.json", json.dumps(how | {"rows": rows}) + "\n")
