"""A child process that does one thing, and can be killed while it does.

It is a fork, so that a hundred of them need no hundred imports of torch. After a fork torch can
compute gradients only if its parent never has; so all work that takes any is done in children.
"""

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Child", "finish", "rss"]


class Child:
    """`job()` in another process. What it returns must go into JSON."""

    def __init__(self, job: Callable[[], Any], silent: bool = True):
        self.pipe, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            said: dict[str, Any] = {}
            try:
                if silent:
                    for stream in (1, 2):
                        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
                said = {"returned": job()}
            except BaseException as error:
                said = {"error": f"{type(error).__name__}: {error}"}
            finally:
                os.write(writing, json.dumps(said).encode())
                os._exit(0)
        os.close(writing)

    def kill(self) -> None:
        """SIGKILL: the process cannot do anything about it, and learns nothing of it."""
        os.kill(self.pid, signal.SIGKILL)

    def alive(self) -> bool:
        """Whether it is still at work."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self) -> dict[str, Any]:
        """What the job "returned", or its "error"; nothing if the process was killed."""
        with os.fdopen(self.pipe) as file:
            said = file.read()
        _, status = os.waitpid(self.pid, 0)
        return json.loads(said) if said and status == 0 else {}


def finish(job: Callable[[], Any]) -> Any:
    """What a job returns, done in a child."""
    said = Child(job).wait()
    if "returned" not in said:
        raise RuntimeError(f"a child failed: {said.get('error')}")
    return said["returned"]


def rss(pid: int | str = "self") -> float:
    """MiB of memory that a process holds; without files, which the system can read again."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines.get("RssAnon", "0 kB").split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS: the most so far
