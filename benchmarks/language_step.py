"""A step of `stockpot run` on text against a step of the bare Trainer: the same model, texts and optimizer.

    OMP_NUM_THREADS=1 python benchmarks/language_step.py

A Llama of 1.6 M parameters on packed sequences of 256 tokens. The loops alternate in one process: Stockpot's (SFA, p =
0.25) and the bare Trainer, whose batches are the same sequences collated by Transformers and whose loss is the model's
own; then both again with a LoRA adapter. It prints the ratios of seconds per step, median and quartiles over the
rounds, of the wall clock and of the processor; the memory that SFA reports to hold beside the model; and what PyTorch's
profiler sees allocated when an SFA is made and averages once.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from run_step import Seconds, Stopwatch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, default_data_collator

from stockpot import SFA, methods
from stockpot.batches.examples import TrainingData
from stockpot.batches.token_examples import TokenExamples
from stockpot.methods.base import Task
from stockpot.methods.sfa import SFAConfig
from stockpot.models.lora import LoraSpec, attach
from stockpot.runs.meter import Clock
from stockpot.training.job import Job, planned_steps
from stockpot.training.trainer import train_with_trainer

LENGTH, WORDS, BATCH = 256, 2048, 8


def model(adapted: bool) -> nn.Module:
    """A small Llama with random weights, with a LoRA adapter if `adapted`."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    plain = LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, max_position_embeddings=LENGTH, **sizes))
    return attach(plain, LoraSpec(), seed=0) if adapted else plain


def settings(steps: int) -> dict[str, Any]:
    """The same for all loops."""
    return {
        "max_steps": steps, "per_device_train_batch_size": BATCH, "learning_rate": 1e-3,
        "use_cpu": not torch.cuda.is_available(),
    }  # fmt: skip


def bare(network: nn.Module, texts: torch.Tensor, steps: int, folder: Path) -> Seconds:
    """(wall, processor) seconds of a bare Trainer."""
    watch = Stopwatch()
    training_arguments = TrainingArguments(
        output_dir=str(folder), save_strategy="no", report_to="none", disable_tqdm=True, **settings(steps)
    )
    rows: Any = [{"input_ids": text, "labels": text} for text in texts]
    Trainer(network, training_arguments, default_data_collator, rows, callbacks=[watch]).train()
    return watch.seconds


def ours(network: nn.Module, texts: torch.Tensor, steps: int, folder: Path, adapted: bool) -> tuple[Seconds, int]:
    """(wall, processor) seconds of a task as `stockpot run` trains it, and the bytes that SFA holds."""
    inputs, targets = texts[:, :-1], texts[:, 1:]
    ends = torch.arange(1, len(texts) + 1) * inputs.shape[1]
    examples = TokenExamples(inputs.flatten().int(), ends, targets.flatten().int())
    network.save_pretrained(folder / "anchor")  # type: ignore[operator]
    method = methods.build(SFAConfig(name="sfa", beta=0.25, p=0.25, first_task="average"))
    clock = Clock()
    job = Job(network, method, TrainingData.of(examples), settings(steps), 0, folder, on_begin=clock.start)
    task = Task(0, "task", 0, network, checkpoint=lambda _: folder / "anchor", language=True, adapted=adapted)
    task.total_steps = planned_steps(job)
    method.task_start(task)
    train_with_trainer(job)
    return clock.read(), method.costs.extra_memory_bytes


def allocated(network: nn.Module) -> int:
    """Bytes allocated when an SFA with an anchor in memory is made, and averages once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        SFA(network, beta=0.25, every=10).average()
    return sum(max(0, event.self_cpu_memory_usage) for event in profiler.events() or [])


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    texts = torch.randint(WORDS, (512, LENGTH + 1))
    with tempfile.TemporaryDirectory() as name:
        anchor_bytes: dict[bool, int] = {}

        def stockpot(adapted: bool) -> Seconds:
            seconds, anchor_bytes[adapted] = ours(model(adapted), texts, arguments.steps, Path(name), adapted)
            return seconds

        for adapted, title in ((False, "full fine-tuning"), (True, "LoRA")):
            loops: list[Callable[[], Seconds]] = [
                lambda adapted=adapted: stockpot(adapted),  # type: ignore[misc]
                lambda adapted=adapted: bare(model(adapted), texts[:, :-1], arguments.steps, Path(name)),  # type: ignore[misc]
            ]
            ratios_of_rounds = []
            for number in range(arguments.rounds + 1):
                order = [0, 1] if number % 2 else [1, 0]
                seconds = {which: loops[which]() for which in order}
                if number:  # the first round warms up
                    ratios_of_rounds.append([seconds[0][clock] / seconds[1][clock] for clock in (0, 1)])
            for clock, of in enumerate(("wall", "processor")):
                low, middle, high = statistics.quantiles([ratios[clock] for ratios in ratios_of_rounds], n=4)
                print(f"{title}, {of}: stockpot / bare Trainer {middle:.3f} (quartiles {low:.3f} to {high:.3f})")
            print(f"{title}: SFA holds {anchor_bytes[adapted]:,} bytes beside the model (an anchor, if any, is a file)")
            print(f"{title}: an SFA that is given no file allocates {allocated(model(adapted)):,} bytes")


if __name__ == "__main__":
    main()
