"""Every command in the README, run: as it stands, or in a quick form where it would take minutes.

A command is a line of a block marked `sh`, or a program's name and what follows it in code type.
One that begins like none of `FORMS` fails: nobody has said yet how to see that it works.
"""

import base64
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from functools import cache, partial
from importlib import import_module, metadata
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from packaging.requirements import Requirement

from ch01_overview.corpus import stories
from ch04_model.model import GPTConfig
from ch05_pretraining import recipes
from ch05_pretraining.config import TrainConfig
from ch06_alignment import finetune

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PROGRAMS = ("make", "python", "pip", "pytest", "jupyter", "ruff", "torchrun", "source")
RECIPE = ("make", "--no-print-directory", "-n", "-B")  # print what would be run, and no more
READY = ("-o", ".venv/ready", "-o", "book/.venv/ready")  # environments that make need not set up
TINY = recipes.Preset(
    GPTConfig.qwen3(
        vocab_size=509, context_length=401, n_layers=1, n_heads=2, d_model=12, tied=False
    ),
    TrainConfig(steps=2, batch_size=3, context_length=67),
    n_stories=41,
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.S | re.M)


def commands() -> list[str]:
    """What the README says to type, in order, each command once."""
    lines = [line.split("  #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```", "", README, flags=re.S | re.M)
    spans = [span for span in re.findall(r"`([^`\n]+)`", prose) if " " in span]
    return list(dict.fromkeys([*lines, *(s for s in spans if s.split()[0] in PROGRAMS)]))


def requirements(path: str) -> list[Requirement]:
    lines = [line.split("#")[0].strip() for line in (ROOT / path).read_text("utf-8").splitlines()]
    return [Requirement(line) for line in lines if line and line != "-e ."]


@cache
def typed(*words: str, cwd: Path = ROOT) -> str:
    """What is printed by a program that stands beside this Python."""
    path = sysconfig.get_path("scripts") + os.pathsep + os.environ["PATH"]
    command = [shutil.which(words[0], path=path), *words[1:]]
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def from_make(*words: str) -> list[str]:
    """What make would run, told without the names of the environments."""
    if not shutil.which("make"):
        pytest.skip("there is no make on this machine")
    lines = re.sub(r"(\S+/)?\.venv/bin/", "", typed(*RECIPE, *words))
    lines = re.sub(r"( \S+\.ipynb)+$", " NOTEBOOK", lines, flags=re.M)
    lines = re.sub(r"^\S+ -m venv", "python -m venv", lines, flags=re.M)
    lines = lines.replace("python -m pip install", "pip install")
    return [line.strip() for line in lines.splitlines() if not line.startswith("touch ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where a reader works: with a text, and with a notebook."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "my.txt").write_text("\n\n".join(story.text for story in stories(60, seed=3)))
    cell = nbformat.v4.new_code_cell("print(6 * 7)")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "notebook.ipynb")
    return folder


@pytest.fixture
def at_work(folder, monkeypatch):
    """The reader's folder is the current one, and whatever is trained there takes a second."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LLM_CACHE_DIR", str(folder / "cache"))
    monkeypatch.setattr("sys.stdin", io.StringIO("Tell a tale about Mia the shy owl.\n"))
    for name in recipes.PRESETS:
        monkeypatch.setitem(recipes.PRESETS, name, TINY)
    monkeypatch.setattr(recipes, "N_VAL_STORIES", 23)
    monkeypatch.setattr(recipes, "text_path", lambda _: folder / "my.txt")  # Shakespeare, too
    brief = TrainConfig(steps=2, batch_size=3)
    monkeypatch.setattr(finetune, "N_CONVERSATIONS", 30)
    monkeypatch.setattr(finetune, "finetune", partial(finetune.finetune, config=brief))
    monkeypatch.setattr(finetune, "report_card", partial(finetune.report_card, n=3))
    return folder


def by_make(command: str, folder: Path) -> None:
    """Read, not done."""
    assert from_make(*shlex.split(command.removeprefix("make ")))


def environment(command: str, folder: Path) -> None:
    (folder / "book").mkdir(exist_ok=True)
    typed(sys.executable, *command.split()[1:], "--without-pip", cwd=folder)
    assert (folder / command.split()[-1] / "pyvenv.cfg").exists()


def activation(command: str, folder: Path) -> None:
    windows = "\\" in command
    if windows != (os.name == "nt"):
        pytest.skip("for another system")
    environment("python -m venv .venv", folder)
    shell, find = (["cmd", "/c"], "where") if windows else (["bash", "-c"], "command -v")
    found = typed(*shell, f"{command} && {find} python", cwd=folder).splitlines()[0]
    assert Path(found).parents[1].samefile(folder / ".venv")


def installation(command: str, folder: Path) -> None:
    """Without a network: all is pinned, and what the reader needs is what is installed here."""
    path = command.split()[-1]
    assert all(str(package.specifier).startswith("==") for package in requirements(path))
    if path == "requirements.txt":
        for package in requirements(path):
            assert package.specifier.contains(metadata.version(package.name)), package


def jupyterlab(command: str, folder: Path) -> None:
    """`jupyter lab` starts the program `jupyter-lab`; `make test-browser` works in it."""
    assert shutil.which("-".join(command.split()), path=sysconfig.get_path("scripts"))


def linter(command: str, folder: Path) -> None:
    typed(*command.split(), __file__)


def execution(command: str, folder: Path) -> None:
    assert command.endswith(" NOTEBOOK")
    notebook = folder / "notebook.ipynb"
    typed(*command.split()[:-1], str(notebook))
    assert "42" in nbformat.read(notebook, as_version=4).cells[0].outputs[0].text


def comparison(command: str, folder: Path) -> None:
    """`make test` does it to every notebook, in these words."""
    words, notebook = command.rsplit(" ", 1)
    assert notebook == "NOTEBOOK" or (ROOT / notebook).exists()
    assert f"{words} NOTEBOOK" in from_make(*READY, "test")


def unit_tests(command: str, folder: Path) -> None:
    """The folder holds tests: to run them all would be to run this one, too."""
    assert list((ROOT / command.split()[-1]).glob("test_*.py"))


def book(command: str, folder: Path) -> None:
    """`make test-browser` runs it, in an environment that has what it imports."""
    path = ROOT / command.split()[-1]
    compile(path.read_text("utf-8"), path, "exec")


def module(command: str, folder: Path) -> None:
    _, _, name, *options = command.split()
    main = import_module(name).main
    if not name.endswith(".benchmark"):  # those take minutes, and have tests of their own
        main(options)


def several_processes(command: str, folder: Path) -> None:
    """torch knows the options before the module, and the module those behind it."""
    from torch.distributed.run import parse_args

    options = parse_args(command.split()[1:])
    assert options.module
    with pytest.raises(SystemExit, match="0"):
        import_module(options.training_script).main([*options.training_script_args, "--help"])


def table_of_attempts(command: str, folder: Path) -> None:
    """A slice of it is run by `test_torture.py`."""
    names = typed(sys.executable, *command.split()[1:], "--list").splitlines()
    assert f"in {len(names)} ways" in README


FORMS = {
    "make ": by_make,
    "python -m venv ": environment,
    ".venv\\Scripts\\activate": activation,
    "source ": activation,
    "pip install -r ": installation,
    "jupyter lab": jupyterlab,
    "jupyter nbconvert ": execution,
    "ruff ": linter,
    "python -m pytest --nbval ": comparison,
    "python -m pytest ": unit_tests,
    "python book/build.py": book,
    "python -m appendix_performance.benchmark": module,
    "python -m ch": module,
    "python -m tests.torture": table_of_attempts,
    "torchrun ": several_processes,
}


@pytest.mark.parametrize("command", commands())
def test_a_command_works(command, at_work):
    forms = [form for beginning, form in FORMS.items() if command.startswith(beginning)]
    assert forms, "how can one see that it works? See FORMS"
    forms[0](command, at_work)


@pytest.mark.parametrize("code", blocks("python"))
def test_code_runs_behind_the_commands_before_it(code, at_work):
    if not (at_work / "my-model").exists():
        module(next(c for c in commands() if c.endswith("--out my-model")), at_work)
    exec(compile(code, "README.md", "exec"), {})


def rows() -> list[tuple[str, str]]:
    """The table of commands: with make, and without."""
    return re.findall(r"^\| `(make [^`]+)` \|[^|]*\| (`.*`) \|$", README, re.M)


@pytest.mark.parametrize(("command", "cell"), rows())
def test_the_plain_form_is_what_make_runs(command, cell):
    assert re.findall(r"`([^`]+)`", cell) == from_make(*READY, *shlex.split(command)[1:])


@pytest.mark.parametrize("target", [".venv/ready", "book/.venv/ready"])
def test_the_set_up_by_hand_is_that_of_make(target):
    assert set(from_make(target)) <= set(commands())


def test_the_report_card_is_the_one_that_is_printed(at_work, capsys):
    module("python -m ch06_alignment.chat", at_work)
    printed = capsys.readouterr().out
    transcript = next(block for block in blocks("text") if "floor" in block)
    lines = re.findall(r"^  (\S.*?)  +\S+", transcript, re.M)
    assert len(lines) > 3 and all(line in printed for line in lines)


def test_every_target_of_make_stands_in_the_table():
    targets = re.search(r"\.PHONY: (.*)", (ROOT / "Makefile").read_text("utf-8"))[1].split()
    assert {command.split()[1] for command, _ in rows()} == set(targets)


def test_every_chapter_stands_in_the_map():
    folders = [p.name for p in ROOT.iterdir() if re.match(r"ch\d|appendix_", p.name)]
    assert all(f"| `{name}` |" in README for name in folders)


def test_every_package_earns_its_line():
    table = README[README.index("## What it stands on") :]
    assert all(f"`{package.name}`" in table for package in requirements("requirements.txt"))


def test_links_and_pictures_are_files_of_the_repository():
    for target in re.findall(r"\]\(([^)#\s]+)", README):
        assert (ROOT / target).exists(), target


def test_the_figure_is_chapter_5s_ladder():
    """Up to what another processor draws otherwise. `make book` takes it from the notebook."""
    text = (ROOT / "ch05_pretraining" / "pretraining.ipynb").read_text("utf-8")
    cells = [c for c in json.loads(text)["cells"] if "draw_ladder(" in "".join(c["source"])]
    pictures = [o["data"]["image/png"] for o in cells[-1]["outputs"] if "data" in o]
    drawn, shown = (
        plt.imread(file)
        for file in (io.BytesIO(base64.b64decode(pictures[0])), ROOT / "book" / "ladder.png")
    )
    assert drawn.shape == shown.shape
    assert np.abs(drawn - shown).mean() < 0.005
