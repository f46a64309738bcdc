"""A process in which all is imported, and which forks a child for each command, with faults on request.

It answers each request that comes through its connection:

    {"start": {"arguments": […], "root": …, "output": …}}  → {"pid": …}
    {"wait": pid}  → {"code": …}, negative for a signal; {"code": null} when the child has stopped itself

A request may also hold `fault` (see Faults), `report` (true: reports and tables are written), and `path` (a folder of
modules). A child counts events: every write, sync, rename and deletion under `root`, every optimizer step and
evaluation. At the event that `fault` names, it kills itself, gets ENOSPC or a signal. So each instant can be hit, again
and again.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import gc
import importlib
import json
import os
import pathlib
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

Act = Callable[[], Any]
ENDS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "interrupt": signal.SIGINT, "stop": signal.SIGSTOP}


class Faults:
    """Counts events, and does what `fault` says at one of them.

    `fault`: `do` (one of ENDS, "full" or "fail"), `at` (the number of the event, from 1), `kind` and `path` (count
    only events of this kind, at a path that contains this text), `errno`, `lasting` (the disk stays full).
    """

    def __init__(self, root: str, fault: dict[str, Any] | None) -> None:
        self.root = root
        self.fault = fault or {}
        self.events: list[tuple[str, str]] = []
        self.counted = 0
        self.busy = False

    def event(self, kind: str, path: str, act: Act, half: Act | None = None) -> Any:
        """One event: `act` is what it does, `half` does it partly."""
        if self.busy or not path.startswith(self.root):
            return act()
        self.busy = True
        try:
            self.events.append((kind, path[len(self.root) :]))
            fault = self.fault
            if not fault or kind != fault.get("kind", kind) or fault.get("path", "") not in path:
                return act()
            self.counted += 1
            if self.counted != fault["at"] and not (fault.get("lasting") and self.counted > fault["at"]):
                return act()
            if fault["do"] in ("full", "fail"):
                return self._fail(kind, act, half)
            if fault["do"] == "kill" and half is not None:
                half()
            os.kill(os.getpid(), ENDS[fault["do"]])
            return act()
        finally:
            self.busy = False

    def _fail(self, kind: str, act: Act, half: Act | None) -> Any:
        code = self.fault.get("errno", errno.ENOSPC)
        if kind in ("step", "evaluate", "unlink", "rmdir"):  # need no space
            return act()
        if half is not None:
            half()
        if kind == "tensors":  # in the words of the libraries
            import safetensors

            raise safetensors.SafetensorError(f"Error while serializing: I/O error: … (os error {code})")
        if kind == "pickle":
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
        raise OSError(code, os.strerror(code))

    def install(self) -> None:
        """Replaces what is counted by functions that count it."""
        import safetensors.torch
        from torch.optim.optimizer import register_optimizer_step_post_hook

        from stockpot.evaluation.scores import base as scores
        from stockpot.streams.text import cache

        self._syncs_and_writes()
        for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
            self._wrap_os(name)

        def write_text(path: Path, text: str, *rest: Any, _real: Any = pathlib.Path.write_text, **more: Any) -> Any:
            return self.event("text", str(path), lambda: _real(path, text, *rest, **more),
                              lambda: _real(path, text[: len(text) // 2], *rest, **more))  # fmt: skip

        def serialize(tensors: Any, path: Any, *rest: Any, _real: Any = safetensors.torch.serialize_file, **more: Any):  # type: ignore[no-untyped-def]
            def whole() -> Any:
                return _real(tensors, path, *rest, **more)

            return self.event("tensors", str(path), whole, lambda: (whole(), _halve(str(path))))

        def save(value: Any, path: Any, *rest: Any, _real: Any = torch.save, **more: Any) -> Any:
            def whole() -> Any:
                return _real(value, path, *rest, **more)

            return self.event("pickle", str(path), whole, lambda: (whole(), _halve(str(path))))

        def opened(path: Any, mode: str = "r", *rest: Any, _real: Any = builtins.open, **more: Any) -> Any:
            def act() -> Any:
                return _real(path, mode, *rest, **more)

            return self.event("open", str(path), act) if "w" in mode and isinstance(path, str | Path) else act()

        def predict(*rest: Any, _real: Any = scores.predict, **more: Any) -> Any:
            return self.event("evaluate", self.root, lambda: _real(*rest, **more))

        def tokenise(*rest: Any, _real: Any = cache.tokenise, **more: Any) -> Any:
            return self.event("tokenise", self.root, lambda: _real(*rest, **more))

        setattr(pathlib.Path, "write_text", write_text)  # noqa: B010
        safetensors.torch.serialize_file = serialize
        torch.save = save
        builtins.open = opened  # type: ignore[assignment]
        scores.predict = predict
        cache.tokenise = tokenise
        register_optimizer_step_post_hook(lambda *_: self.event("step", self.root, lambda: None))

    def _syncs_and_writes(self) -> None:
        real_write = os.write

        def fsync(handle: int) -> None:
            """Counts, and does not wait for the disk: a process that is killed loses nothing that it wrote."""
            path = _path_of(handle)
            # What was not synced may be lost in part; the journal's earlier lines have been synced.
            half = (lambda: _halve(path)) if ".tmp-" in path and Path(path).is_file() else None
            self.event("sync", path, lambda: None, half)

        def write(handle: int, data: bytes) -> int:
            half = lambda: real_write(handle, data[: len(data) // 2])  # noqa: E731
            written: int = self.event("append", _path_of(handle), lambda: real_write(handle, data), half)
            return written

        os.fsync, os.write = fsync, write

    def _wrap_os(self, name: str) -> None:
        real = getattr(os, name)

        def wrapped(path: Any, *rest: Any, **more: Any) -> Any:
            folder = more.get("dir_fd")
            whole = str(path) if folder is None else f"{_path_of(folder)}/{os.fspath(path)}"
            return self.event(name, whole, lambda: real(path, *rest, **more))

        setattr(os, name, wrapped)


def _path_of(handle: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{handle}").readlink())
    except OSError:
        return ""


def _halve(path: str) -> None:
    os.truncate(path, Path(path).stat().st_size // 2)


def _act(request: dict[str, Any]) -> int:
    """Runs one command in a child that was forked for it; returns the exit code."""
    from stockpot.cli import main

    root = request["root"]
    if "path" in request:
        sys.path.insert(0, request["path"])
    if not request.get("report"):
        from stockpot.cli import finish
        from stockpot.report import comparison_page, run_page

        finish.show = lambda table: None  # tests/cli reads tables
        run_page.write_run_report = lambda results, folder, **_: folder / "report.html"
        comparison_page.write_comparison_report = lambda comparison, cells, folder, *_, **__: folder / "report.html"
    random.seed(time.time_ns())  # nothing may depend on the state of this process
    torch.manual_seed(time.time_ns())
    faults = Faults(root, request.get("fault"))
    faults.install()
    code = 0
    try:
        main(request["arguments"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    faults.busy = True
    Path(request["output"] + ".events").write_text(json.dumps(faults.events), encoding="utf-8")
    return code


def _start(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for number, name in ((0, "/dev/null"), (1, request["output"] + ".out"), (2, request["output"] + ".err")):
            handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(handle, number)
        code = _act(request)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(pid: int) -> int | None:
    _, status = os.waitpid(pid, os.WUNTRACED)
    return None if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)


WARM = ("cli.finish", "report.card", "report.run_page", "runs.actions", "training.plain", "training.trainer")


def _warm_up() -> None:
    """Imports what a run needs, and lets Transformers make its tables; no gradient, which would start threads."""
    gc.disable()
    import peft  # noqa: F401
    import typer.main
    from transformers import LlamaForCausalLM, ViTConfig, ViTForImageClassification  # noqa: F401

    from stockpot.cli.app import app
    from stockpot.methods import registry
    from stockpot.models.names import saved_names
    from stockpot.recipe.train import check_train
    from stockpot.streams.images import read_digits

    for name in WARM:
        importlib.import_module(f"stockpot.{name}")
    with contextlib.suppress(ImportError):  # not in transformers 4
        import transformers.models.vit.image_processing_pil_vit  # noqa: F401
    read_digits()
    registry()
    check_train({}, "")
    tiny = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "intermediate_size": 8}
    saved_names(ViTForImageClassification(ViTConfig(**tiny, num_hidden_layers=1, num_attention_heads=1)))
    torch.set_num_threads(1)
    command = typer.main.get_command(app)  # its options are read from annotations, which takes as long as a task
    typer.main.get_command = lambda _: command
    gc.collect()
    gc.freeze()  # what is here stays: the Trainer collects garbage at every task
    gc.enable()


def serve(connection: Connection, cache: Path) -> None:
    """Answers requests until nobody can ask any more; what `datasets` keeps of them is in the folder `cache`."""
    import datasets

    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    datasets.config.HF_DATASETS_CACHE = cache
    _warm_up()
    while True:
        request = connection.recv()
        answer = {"pid": _start(request["start"])} if "start" in request else {"code": _wait(request["wait"])}
        connection.send(answer)
