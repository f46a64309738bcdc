"""Plants faults in a copy of the package, one at a time, and lists the tests of the default tier that notice.

    python benchmarks/planted_faults.py                 # each fault against the test files that should catch it
    python benchmarks/planted_faults.py --all           # against the whole default tier: ten times its time
    python benchmarks/planted_faults.py late dropped    # two of them

A fault is an exact replacement of text: where the text is gone, the script stops and says so. The exit code is 1 when a
fault turns no test red. The table on stdout is markdown.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+?\.py)(::\S.*?)?(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Fault:
    """What is wrong, where (a file, the text there, and what replaces it), and the tests that should notice."""

    title: str
    edits: tuple[tuple[str, str, str], ...]
    tests: tuple[str, ...]


AVERAGES = (
    "tests/averaging/test_sfa_schedule.py",
    "tests/averaging/test_sfa_mathematics.py",
    "tests/methods/test_sfa_method.py",
)
AUTO = ("tests/averaging/test_sfa_auto.py", "tests/methods/test_sfa_auto_method.py")
FAULTS = {
    "missed": Fault(
        "the first average of a task is missed",
        (
            (
                "averaging/schedule.py",
                "return [step for step in steps if step < total_steps] + [total_steps]",
                "return [step for step in steps if step < total_steps][1:] + [total_steps]",
            ),
        ),
        AVERAGES,
    ),
    "late": Fault(
        "every average comes one step late",
        (("averaging/schedule.py", "return step in self._steps", "return step - 1 in self._steps"),),
        AVERAGES,
    ),
    "exchanged": Fault(
        "β and 1 − β are exchanged",
        (
            (
                "averaging/average.py",
                "torch._foreach_lerp_(tensors, anchors, beta)",
                "torch._foreach_lerp_(tensors, anchors, 1 - beta)",
            ),
        ),
        ("tests/averaging/test_sfa_mathematics.py", "tests/methods/test_sfa_method.py"),
    ),
    "zeroed": Fault(
        "the Fisher is zero",
        (("importance/fisher.py", "(tensor / many)", "(tensor * 0)"),),
        ("tests/importance/test_fisher.py", "tests/methods/test_ewc_method.py"),
    ),
    "dropped": Fault(
        "the penalty of EWC, MAS and SI is dropped",
        (("methods/shared/penalty.py", "theta - anchor, value=strength", "theta - anchor, value=0.0"),),
        ("tests/methods/test_ewc_method.py", "tests/methods/test_si_method.py"),
    ),
    "early": Fault(
        "a buffer takes in the new task before it is drawn from",
        (
            (
                "methods/replay.py",
                "        self._buffer.check(task, examples)\n",
                "        self._buffer.check(task, examples)\n        self._buffer.fill(task, examples)\n",
            ),
            (
                "methods/replay.py",
                "        self._buffer.fill(task, examples)\n        self.costs.stored_bytes",
                "        self.costs.stored_bytes",
            ),
        ),
        ("tests/methods/test_replay_method.py",),
    ),
    "unsynced": Fault(
        "a rename is not synced",
        (
            (
                "files.py",
                "            temporary.rename(target)\n            sync(target.parent)\n",
                "            temporary.rename(target)\n",
            ),
        ),
        ("tests/runs/test_killed.py",),
    ),
    "head": Fault(
        "rows of a head that the anchor lacks are averaged, with zero",
        (
            (
                "averaging/match.py",
                "return (tensor if self.rows is None else tensor.narrow(0, 0, self.rows)), local_shard(self.anchor)",
                "more = (0 if self.rows is None else len(tensor) - self.rows, *self.anchor.shape[1:])\n"
                "        anchor = local_shard(self.anchor)\n"
                "        return tensor, anchor if self.rows is None else torch.cat([anchor, anchor.new_zeros(more)])",
            ),
        ),
        ("tests/averaging/test_sfa_what_is_averaged.py", "tests/averaging/test_sfa_anchor.py"),
    ),
    "factor": Fault(
        "A of LoRA is averaged as well as B, each alone",
        (
            (
                "averaging/lora_factors.py",
                "{id(a): None, id(b): None, id(scaled): factor}",
                "{id(a): factor, id(b): factor}",
            ),
        ),
        ("tests/averaging/test_sfa_lora.py", "tests/methods/test_lora_in_a_run.py"),
    ),
    "skipped": Fault(
        "the journal's line of a checkpoint is skipped",
        (
            (
                "runs/journal.py",
                '        self.check_place()\n        assert self._handle is not None, "needs',
                '        self.check_place()\n        if event.get("event") == "checkpoint":\n            return\n'
                '        assert self._handle is not None, "needs',
            ),
        ),
        ("tests/runs/test_stopped.py", "tests/runs/test_killed.py"),
    ),
    "not-added": Fault(
        "beta: auto forgets the importance of the tasks before the last",
        (("averaging/auto_beta.py", "fresh = fresh + old.to(fresh)", "fresh = fresh + 0 * old.to(fresh)"),),
        AUTO,
    ),
    "unseen": Fault(
        "beta: auto does not see the gradients of a task's first step",
        (("averaging/sfa.py", "self._auto is not None and gradients:", "self._auto is not None and step > 1:"),),
        AUTO,
    ),
    "swapped": Fault(
        "beta: auto exchanges κ and β",
        (
            (
                "averaging/average.py",
                "torch.lerp(origin, part, kept, out=part)",
                "torch.lerp(origin, part, 1 - kept, out=part)",
            ),
        ),
        AUTO,
    ),
}


def plant(fault: Fault, source: Path) -> None:
    """Changes the copy of `src/stockpot`; stops where the text to be replaced is not there exactly once."""
    for name, old, new in fault.edits:
        file = source / "stockpot" / name
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if text.count(old) != 1:
            raise SystemExit(f"{fault.title}: {name} holds this {text.count(old)} times, not once:\n{old}")
        file.write_text(text.replace(old, new), encoding="utf-8")


def red_tests(fault: Fault, every: bool, workers: int) -> list[str]:
    """The tests that fail with the fault planted."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        plant(fault, source)
        environment = {**os.environ, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "1000"}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=no", "-rfE"]
        command += ["-n", str(workers), "--dist", "worksteal"] if workers > 1 else []
        command += [] if every else fault.tests
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(
            f"{fault.title}: pytest ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return ["".join(match) for match in FAILED.findall(done.stdout)]


def main() -> None:
    """Plants, runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(FAULTS)}; all of them by default")
    parser.add_argument("--all", action="store_true", help="run the whole default tier")
    parser.add_argument("--workers", type=int, default=2, help="processes of pytest-xdist")
    parser.add_argument("--check", action="store_true", help="only check that every fault can be planted")
    options = parser.parse_args()
    names = options.faults or list(FAULTS)
    if unknown := set(names) - FAULTS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    for name in names:  # all of them first: a run takes long
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(ROOT / "src", Path(folder) / "src")
            plant(FAULTS[name], Path(folder) / "src")
    if options.check:
        return
    print("| fault | tests red | in |\n|---|---|---|", flush=True)
    red: dict[str, list[str]] = {}
    for name in names:
        red[name] = red_tests(FAULTS[name], options.all, options.workers)
        files = Counter(test.partition("::")[0].removeprefix("tests/") for test in red[name])
        where = ", ".join(f"{file} {count}" for file, count in sorted(files.items())) or "**none**"
        print(f"| {FAULTS[name].title} | {len(red[name])} | {where} |", flush=True)
    for name in names:
        print(f"\n{FAULTS[name].title}:\n" + "\n".join(f"- `{test}`" for test in red[name]))
    sys.exit(0 if all(red.values()) else 1)


if __name__ == "__main__":
    main()
