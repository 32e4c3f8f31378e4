"""A browser for the tests; without one they are skipped, and say what to install."""
# ruff: noqa: D103

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "book"))

import pdf  # noqa: E402

HOME = ("file:", "data:", "blob:", "about:")
LOCAL = "http://127.0.0.1:"
NOT_COPIED = shutil.ignore_patterns(".*", "book", "__pycache__", "*.egg-info", "runs")


@pytest.fixture(scope="session")
def browser():
    program = pdf.find_chromium()
    if program is None:
        pytest.skip(f"this test {pdf.INSTALL}")
    playwright = pytest.importorskip("playwright.sync_api", reason="make test-browser has it")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


class Page:
    """A page that reaches this machine only, and what it asked for and complained of."""

    def __init__(self, context):
        """Open an empty page."""
        self.outside, self.complaints = [], []
        context.route("**/*", self._let_through)
        self.page = context.new_page()
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _let_through(self, route):
        url = route.request.url
        if url.startswith((*HOME, LOCAL)):
            return route.continue_()
        self.outside.append(url)
        return route.abort()

    def _listen(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@pytest.fixture
def open_page(browser):
    """A function that opens an empty page, 1280 or as many pixels wide as it is told."""
    contexts = []

    def open_page(width: int = 1280, scheme: str = "light") -> Page:
        size = {"width": width, "height": 900}
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme))
        contexts[-1].set_default_timeout(120_000)  # a busy machine is no fault of the page
        return Page(contexts[-1])

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def repository(tmp_path_factory) -> Path:
    """A copy of the chapters, so that what is typed into a notebook changes no file."""
    copy = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT, copy, ignore=NOT_COPIED, dirs_exist_ok=True)
    return copy


def python_of_the_reader() -> Path:
    scripts, ending = ("Scripts", ".exe") if os.name == "nt" else ("bin", "")
    return ROOT / ".venv" / scripts / f"python{ending}"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(url: str, server: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not answer at {url}")


def settings(folder: Path) -> dict[str, str]:
    """An environment in which JupyterLab has nobody's settings, and asks for no news."""
    off = folder / "labconfig" / "page_config.json"
    off.parent.mkdir(parents=True)
    off.write_text('{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}')
    names = ["JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"]
    own = {name: str(folder / name.lower()) for name in names}
    return {**os.environ, "JUPYTER_CONFIG_DIR": str(folder), **own}


@pytest.fixture(scope="session")
def jupyterlab(browser, repository, tmp_path_factory):
    """The address of a JupyterLab that has the copy open."""
    if not python_of_the_reader().exists():
        pytest.skip("JupyterLab lives in .venv: `make lab` sets it up")
    port = free_port()
    command = [python_of_the_reader(), "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token="]
    command += [f"--ServerApp.root_dir={repository}", "--LabApp.expose_app_in_browser=True"]
    folder = tmp_path_factory.mktemp("jupyter")
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(command, env=settings(folder / "config"), stdout=log, stderr=log)
    wait_for(f"{LOCAL}{port}/api", server)
    yield f"{LOCAL}{port}"
    server.terminate()
    server.wait(30)
