"""Where cells run beside this process: in worker processes, or on a Ray cluster. Both give back finished folders."""

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

from stockpot.compare.worker import raise_error_of, run_cell
from stockpot.errors import StockpotError
from stockpot.training.job import Interrupted, Stop

# Run folders that were begun → the same, each once it is finished (or its training diverged).
CellEngine = Callable[[Iterator[Path], Stop], Iterator[Path]]
_ASK_AGAIN = 0.2  # seconds between looks at `stop`


def in_processes(jobs: int) -> CellEngine:
    """Cells in so many worker processes on this machine, which share its processors out."""

    def run(folders: Iterator[Path], stop: Stop) -> Iterator[Path]:
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, processors // jobs))
        command = [sys.executable, "-m", "stockpot.compare.worker"]
        with contextlib.ExitStack() as stack:
            workers = [
                stack.enter_context(
                    subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                        env={**os.environ, "OMP_NUM_THREADS": threads},
                        start_new_session=True,  # Ctrl-C is for this process, which passes it on once
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
    """What the workers say of each folder; on `stop` they are told, and finish their step."""
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
            died = {"error": f"{folder}: the process of this cell died (out of memory?); run this again to go on."}
            answers.put((folder, {**(json.loads(answer) if answer else died), "worker": worker}))

        threading.Thread(target=ask, daemon=True).start()
        return True

    busy = sum(give(worker) for worker in workers)
    told = False
    while busy:
        if stop.requested and not told:
            told = True
            for worker in workers:
                worker.terminate()  # one SIGTERM: the step is finished, and a checkpoint written
        try:
            folder, answer = answers.get(timeout=_ASK_AGAIN)
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
    """Cells as tasks of a Ray cluster that sees the same folders: the one at `address`, or one on this machine."""
    try:
        import ray
    except ImportError as error:
        raise StockpotError('--engine ray needs Ray: pip install "stockpot[ray]"') from error

    def run(folders: Iterator[Path], stop: Stop) -> Iterator[Path]:
        ours = not ray.is_initialized()
        if ours:
            ray.init(address=address, log_to_driver=False, configure_logging=False, include_dashboard=False)
        remote = ray.remote(num_cpus=1)(run_cell)
        try:
            waiting = {remote.remote(str(folder.resolve())): folder for folder in folders}
            while waiting:
                if stop.requested:
                    for task in waiting:
                        ray.cancel(task, force=True)  # the newest checkpoint stands
                    raise Interrupted
                done, _ = ray.wait([*waiting], timeout=_ASK_AGAIN)
                for task in done:
                    folder = waiting.pop(task)
                    raise_error_of(ray.get(task))
                    yield folder
        finally:
            if ours:
                ray.shutdown()

    return run
