"""Where cells run outside this process: in worker processes, or on a Ray cluster.

An engine takes the folders of started runs and yields each one when it is finished, or its training has diverged.
Processes are our own, not `concurrent.futures`' or joblib's: these break the whole pool when one worker dies (out of
memory) and kill the others, whose training since the last checkpoint is then lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stockpot.comparisons.worker import raise_error_of, run_cell
from stockpot.errors import StockpotError
from stockpot.spelling import option
from stockpot.training.job import Interrupted, Stop

CellEngine = Callable[[Iterator[Path], Stop], Iterator[Path]]
_POLL_SECONDS = 0.2  # between checks of `stop`


def in_processes(jobs: int) -> CellEngine:
    """Cells in `jobs` worker processes on this machine, which share its processors equally."""

    def run(folders: Iterator[Path], stop: Stop) -> Iterator[Path]:
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, processors // jobs))
        command = [sys.executable, "-m", "stockpot.comparisons.worker"]
        with contextlib.ExitStack() as stack:
            workers = [
                stack.enter_context(
                    subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                        env={**os.environ, "OMP_NUM_THREADS": threads},
                        start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
                    )
                )
                for _ in range(jobs)
            ]  # fmt: skip
            stack.callback(_end, workers)
            yield from _collected(_answers(workers, folders, stop), stop)

    return run


def _end(workers: list[subprocess.Popen[str]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
        with contextlib.suppress(OSError):
            if worker.stdin:
                worker.stdin.close()


def _answers(
    workers: list[subprocess.Popen[str]], folders: Iterator[Path], stop: Stop
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each folder with its worker's answer; on `stop` the workers finish their step and end."""
    answers: queue.Queue[tuple[Path, dict[str, Any]]] = queue.Queue()

    def give(worker: subprocess.Popen[str]) -> bool:
        folder = None if stop.requested else next(folders, None)
        if folder is None:
            return False

        def ask() -> None:
            try:
                assert worker.stdin is not None and worker.stdout is not None
                worker.stdin.write(json.dumps(str(folder)) + "\n")
                worker.stdin.flush()
                answer = worker.stdout.readline()
            except OSError:
                answer = ""
            died = {
                "error": f"{folder}: the process of this cell died (out of memory?); run the command again to continue."
            }
            answers.put((folder, {**(json.loads(answer) if answer else died), "worker": worker}))

        threading.Thread(target=ask, daemon=True).start()
        return True

    busy = sum(give(worker) for worker in workers)
    stopped = False
    while busy:
        if stop.requested and not stopped:
            stopped = True
            for worker in workers:
                worker.terminate()  # one SIGTERM: it finishes the step and writes a checkpoint
        try:
            folder, answer = answers.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            continue
        busy += give(answer.pop("worker")) - 1
        yield folder, answer


def _collected(answers: Iterator[tuple[Path, dict[str, Any]]], stop: Stop) -> Iterator[Path]:
    for folder, answer in answers:
        if "stopped" not in answer:
            raise_error_of(answer)
            yield folder
    if stop.requested:
        raise Interrupted


def on_ray(address: str | None = None) -> CellEngine:
    """Cells as tasks of a Ray cluster that sees the same folders: the one at `address`, else one on this machine."""
    try:
        import ray
    except ImportError as error:
        raise StockpotError(f'{option("engine")} ray needs Ray: pip install "stockpot[ray]"') from error

    def run(folders: Iterator[Path], stop: Stop) -> Iterator[Path]:
        own_cluster = not ray.is_initialized()
        if own_cluster:
            ray.init(address=address, log_to_driver=False, configure_logging=False, include_dashboard=False)
        remote = ray.remote(num_cpus=1)(run_cell)
        try:
            waiting = {remote.remote(str(folder.resolve())): folder for folder in folders}
            while waiting:
                if stop.requested:
                    for task in waiting:
                        ray.cancel(task, force=True)  # its newest checkpoint remains
                    raise Interrupted
                done, _ = ray.wait([*waiting], timeout=_POLL_SECONDS)
                for task in done:
                    folder = waiting.pop(task)
                    raise_error_of(ray.get(task))
                    yield folder
        finally:
            if own_cluster:
                ray.shutdown()

    return run
