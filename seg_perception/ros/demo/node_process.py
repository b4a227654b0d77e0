"""The segmentation node as a process of its own, with its log in a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from seg_perception.core.errors import EngineError

NODE_MODULE = "seg_perception.ros.node.segmentation_node"


class NodeProcess:
    """Runs a node until the `with` block ends.

    Args:
        log: file that takes what the node prints.
        arguments: its command line, such as ["--ros-args", "-p", "model:=x.onnx"].
        module: what to run with `python -m`.
    """

    def __init__(self, log: Path, arguments: Sequence[str] = (), module: str = NODE_MODULE) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # the terminal's Ctrl-C is for us; we end the node
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the node's log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def check(self) -> None:
        """Pass if the node runs.

        Raises:
            EngineError: it ended; with its exit status and log.
        """
        if (status := self._process.poll()) is not None:
            how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
            raise EngineError(f"the node ended {how}; its log ({self.log}) ends:\n{self.log_tail()}")

    def stop(self) -> int:
        """End the node as Ctrl-C would, harder if it does not listen; returns its exit status."""
        for number, patience in ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0)):
            if self._process.poll() is None:
                self._process.send_signal(number)
                try:
                    return self._process.wait(patience)
                except subprocess.TimeoutExpired:
                    continue
        if self._process.poll() is None:
            self._process.kill()
        return self._process.wait()

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
