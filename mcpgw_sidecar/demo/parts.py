"""A part of the demo: a process whose output is shown with its name. It ends with the demo."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable

import attrs
import trio

_PR_SET_PDEATHSIG = 1
_LINE = 1 << 20  # bytes: a longer line is shown in pieces


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@attrs.define
class Part:
    """A running process. Made by `start`."""

    name: str
    process: subprocess.Popen[bytes]
    _pipe: trio.lowlevel.FdStream

    @classmethod
    def start(cls, name: str, command: list[str]) -> Part:
        """Start a process in a session of its own.

        So Ctrl-C in the terminal reaches only the demo, which ends its parts in order.
        """
        process = subprocess.Popen(  # noqa: S603  # our own programs
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Linux ends the process with the demo, even a killed one. The call requires the main
            # thread.
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  # one system call, no locks
        )
        assert process.stdout is not None  # noqa: S101  # stdout is PIPE above
        return cls(name, process, trio.lowlevel.FdStream(os.dup(process.stdout.fileno())))

    async def lines(self) -> AsyncIterator[str]:
        """The lines that the process writes, until it ends."""
        rest = b""
        while chunk := await self._pipe.receive_some(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                yield line.decode("utf-8", "replace")
        if rest:
            yield rest.decode("utf-8", "replace")

    async def wait_shown(self, show: Callable[[str, str], None]) -> None:
        """Show the lines of the process until it ends."""
        async for line in self.lines():
            show(self.name, line)

    async def wait_ended(self, patience: float) -> None:
        """SIGTERM, then SIGKILL after `patience` seconds."""
        self.process.terminate()
        with trio.move_on_after(patience):
            while self.process.poll() is None:  # noqa: ASYNC110  # subprocess has no event to wait for
                await trio.sleep(0.02)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
