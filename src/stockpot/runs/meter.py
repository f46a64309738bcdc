"""What a block of work costs: wall and processor seconds, and peak memory."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import torch


class Clock:
    """Seconds of the wall clock and of the processor since `start`, plus those of an earlier process."""

    def __init__(self, wall: float = 0.0, cpu: float = 0.0) -> None:
        self._before = (wall, cpu)
        self.start()

    def start(self) -> None:
        """Starts counting."""
        self._started = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Wall and processor seconds so far."""
        return (
            self._before[0] + time.perf_counter() - self._started[0],
            self._before[1] + time.process_time() - self._started[1],
        )


def reset_peak_memory() -> None:
    """Starts measuring peak memory anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    # On Linux, 5 resets the peak resident size of the process. Elsewhere the peak is that of its whole life.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> int:
    """Peak memory since the reset, in bytes: of the accelerator where there is one, else of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
