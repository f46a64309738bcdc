"""`stockpot merge` against mergekit and a bare loop: whole processes, alternating; wall clock, CPU time and memory.

    pip install torch && python -m venv /tmp/mergekit && /tmp/mergekit/bin/pip install torch mergekit==0.1.5
    python benchmarks/merge/versus_mergekit.py --mergekit /tmp/mergekit/bin/mergekit-yaml --work /tmp/merge-benchmark

Models: 1.1 B parameters in bf16, 1 GB shards (`checkpoints.py`), 6.6 GB in all, in the page cache when each command
starts; process start and imports included; two threads each. Ours runs with --no-sync --no-verify and, in separate
rows, with each of those defaults. mergekit runs with --lazy-unpickle --low-cpu-memory, and with its defaults.
Printed: medians and quartiles over the rounds, and medians and quartiles of the ratios within each round.
`anonymous` is the largest RssAnon, sampled every 5 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from checkpoints import make

RULES = ("linear", "slerp", "task_arithmetic", "dare_ties", "ties")
BEST = ["--lazy-unpickle", "--low-cpu-memory"]
QUIET = ["--no-copy-tokenizer", "--no-write-model-card", "--quiet"]


@dataclass(frozen=True)
class Run:
    """One process: wall clock and CPU time in seconds, and the peak of its anonymous memory in bytes."""

    wall: float
    cpu: float
    anonymous: int


def run(command: Sequence[str], output: Path) -> Run:
    """Runs a command that writes to `output`, which is deleted before and after."""
    shutil.rmtree(output, ignore_errors=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    largest = 0
    while True:
        done, status, used = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        largest = max(largest, anonymous(process.pid))
        time.sleep(0.005)
    wall = time.perf_counter() - start
    assert process.stdout is not None
    printed = process.stdout.read().decode()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{printed}")
    shutil.rmtree(output, ignore_errors=True)
    return Run(wall, used.ru_utime + used.ru_stime, largest)


def anonymous(pid: int) -> int:
    """RssAnon of a process, in bytes."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def recipe(rule: str, folder: Path, work: Path) -> Path:
    """Writes the merge as a configuration that both programs read."""
    base, models = str(folder / "base"), [str(folder / name) for name in ("a", "b")]
    entries = [f"  - model: {model}\n    parameters: {{weight: 0.5, density: 0.5}}" for model in models]
    plain = [f"  - model: {model}\n    parameters: {{weight: 0.5}}" for model in models]
    text = f"merge_method: {rule}\ndtype: bfloat16\n"
    if rule == "slerp":
        text += f"base_model: {models[0]}\nparameters: {{t: 0.5}}\nmodels:\n" + "\n".join(
            f"  - model: {model}" for model in models
        )
    elif rule == "linear":
        text += "models:\n" + "\n".join(plain)
    else:
        text += f"base_model: {base}\nmodels:\n" + "\n".join(plain if rule == "task_arithmetic" else entries)
    file = work / f"{rule}.yaml"
    file.write_text(text + "\n")
    return file


def spread(values: Sequence[float]) -> str:
    """Median and quartiles."""
    if len(values) < 2:
        return f"{values[0]:7.2f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:7.2f} ({low:.2f} to {high:.2f})"


def commands_of(chosen: argparse.Namespace, folder: Path, output: Path) -> dict[str, list[str]]:
    """The commands of one round, in this order."""
    stockpot = [str(Path(sys.executable).with_name("stockpot")), "merge"]
    fast = ["--no-sync", "--no-verify", "--threads", "2"]
    a, b, base = (str(folder / name) for name in ("a", "b", "base"))
    commands = {
        "bare loop": [sys.executable, str(Path(__file__).with_name("bare.py")), a, b, str(output)],
        "linear of three, ours": [*stockpot, "linear", a, b, base, "-o", str(output), *fast],
    }
    for rule in chosen.rules:
        file = str(recipe(rule, folder, chosen.work))
        commands[f"{rule}, ours"] = [*stockpot, file, "-o", str(output), *fast]
        if rule == "ties":
            commands["ties over the model, ours"] = [*stockpot, file, "-o", str(output), *fast, "--trim", "model"]
        if chosen.mergekit:
            commands[f"{rule}, mergekit"] = [str(chosen.mergekit), file, str(output), *BEST, *QUIET]
    if "linear" in chosen.rules:
        file, threads = str(chosen.work / "linear.yaml"), ["--threads", "2"]
        commands["linear, ours, verified"] = [*stockpot, file, "-o", str(output), "--no-sync", *threads]
        commands["linear, ours, synced"] = [*stockpot, file, "-o", str(output), "--no-verify", *threads]
        commands["linear, ours, as it comes"] = [*stockpot, file, "-o", str(output), *threads]
        if chosen.mergekit:
            commands["linear, mergekit's defaults"] = [str(chosen.mergekit), file, str(output), *QUIET]
    return commands


# Name of a ratio → (numerator, denominator).
RATIOS = {
    **{f"{rule}: mergekit / ours": (f"{rule}, mergekit", f"{rule}, ours") for rule in RULES},
    "linear: mergekit's defaults / ours": ("linear, mergekit's defaults", "linear, ours"),
    "linear: ours / bare loop": ("linear, ours", "bare loop"),
    "linear: with --verify / without": ("linear, ours, verified", "linear, ours"),
    "linear: with --sync / without": ("linear, ours, synced", "linear, ours"),
    "linear: with both / without": ("linear, ours, as it comes", "linear, ours"),
    "ties over the model: mergekit / ours": ("ties, mergekit", "ties over the model, ours"),
    "ties over the model / linear of three": ("ties over the model, ours", "linear of three, ours"),
    "ties by tensor / linear of three": ("ties, ours", "linear of three, ours"),
}


def into_the_page_cache(folder: Path) -> None:
    """Reads every file once."""
    for path in folder.rglob("*.safetensors"):
        with path.open("rb", buffering=0) as handle:
            while handle.read(1 << 24):
                pass


def main() -> None:
    """Runs the rounds and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mergekit", type=Path, help="its mergekit-yaml; without it only ours and the bare loop run")
    parser.add_argument("--work", type=Path, default=Path("/tmp/merge-benchmark"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=22, help="22 are 1.1 B parameters")
    parser.add_argument("--rules", nargs="*", default=list(RULES), choices=RULES)
    parser.add_argument("--json", type=Path, help="write every run's figures there, after each round")
    chosen = parser.parse_args()
    folder, output = chosen.work / f"layers-{chosen.layers}", chosen.work / "out"
    for seed, name in enumerate(("base", "a", "b")):
        make(folder / name, seed, chosen.layers)
    runs: dict[str, list[Run]] = {name: [] for name in commands_of(chosen, folder, output)}
    for number in range(chosen.rounds):
        for name, command in commands_of(chosen, folder, output).items():
            into_the_page_cache(folder)
            last = run(command, output)
            runs[name].append(last)
            print(f"round {number + 1} {name}: {last.wall:.2f} s, {last.cpu:.2f} CPU-s", file=sys.stderr, flush=True)
        if chosen.json:
            chosen.json.write_text(json.dumps({name: [vars(each) for each in done] for name, done in runs.items()}))
    print(f"{'':30} {'wall, s':28} {'CPU, s':28} anonymous, MB")
    for name, done in runs.items():
        walls, cpus = [each.wall for each in done], [each.cpu for each in done]
        print(f"{name:30} {spread(walls):28} {spread(cpus):28} {max(each.anonymous for each in done) / 1e6:6.0f}")
    print()
    for name, (slow, fast) in RATIOS.items():
        if slow in runs and fast in runs:
            ratio(name, runs[slow], runs[fast])


def ratio(name: str, slow: Sequence[Run], fast: Sequence[Run]) -> None:
    """Prints the ratio of the two in each round, in wall clock and in CPU time."""
    walls = [numerator.wall / denominator.wall for numerator, denominator in zip(slow, fast, strict=True)]
    cpus = [numerator.cpu / denominator.cpu for numerator, denominator in zip(slow, fast, strict=True)]
    print(f"{name:40} wall {spread(walls):26} CPU {spread(cpus)}")


if __name__ == "__main__":
    main()
