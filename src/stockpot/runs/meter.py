"""What a block of work costs: wall and processor seconds, and the highest memory."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import torch


class Clock:
    """Seconds of the wall clock and of the processor since `start`, on top of what an earlier process spent."""

    def __init__(self, wall: float = 0.0, cpu: float = 0.0) -> None:
        self._before = (wall, cpu)
        self.start()

    def start(self) -> None:
        """Begins to count now."""
        self._began = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """(wall, processor) seconds so far."""
        return (
            self._before[0] + time.perf_counter() - self._began[0],
            self._before[1] + time.process_time() - self._began[1],
        )


def reset_peak_memory() -> None:
    """Forgets the highest memory so far."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    # Linux: 5 resets the peak resident size of the process. Elsewhere the peak stays that of the whole process.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> int:
    """The highest memory since the reset in bytes: of the accelerator where there is one, else of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
