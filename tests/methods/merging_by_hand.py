"""Three toy tasks for methods that merge, and what training and merging leave, by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from toy import Learnt, Weights, by_hand, config, copied, examples, learn, network, seed

from stockpot import methods
from stockpot.batches.examples import TensorExamples, TrainingData
from stockpot.methods.base import Method, Task
from stockpot.training.method_state import read_state, write_state

CHAINS: list[dict[str, Any]] = [
    {"mode": "chain", "continue_from": go_on, "vectors": vectors}
    for go_on in ("raw", "merged")
    for vectors in ("consecutive", "start")
]


TASKS = [examples(index) for index in range(3)]


def run(name: str, folder: Path, loop: str = "plain", **keys: Any) -> Learnt:
    """Three toy tasks."""
    return learn(config(name, **keys), loop, folder, tasks=TASKS)


def task(index: int, start: Weights) -> Weights:
    """What training one task leaves, by hand."""
    return by_hand(start, TrainingData.of(TASKS[index]), seed(index))


def parallel() -> list[Weights]:
    return [task(index, copied(network())) for index in range(3)]


def chain() -> list[Weights]:
    """Plain fine-tuning."""
    models = [copied(network())]
    for index in range(3):
        models.append(task(index, models[-1]))
    return models[1:]


def plus(one: Weights, other: Weights, scale: float = 1.0) -> Weights:
    return {name: tensor + scale * other[name] for name, tensor in one.items()}


def total(base: Weights, vectors: list[Weights], scale: float) -> Weights:
    for vector in vectors:
        base = plus(base, vector, scale)
    return base


def mean(models: list[Weights]) -> Weights:
    return {name: torch.stack([model[name] for model in models]).mean(0) for name in models[0]}


@dataclass
class Steps:
    """A method whose training is written by hand: what each task began with, and the model after it."""

    begun: list[Weights]
    models: list[nn.Module]
    methods: list[Method]


def steps(method: Any, folder: Path, start: nn.Module, changes: list[Callable[[nn.Module], nn.Module]],
          grow: Callable[[nn.Module, int], nn.Module] = lambda model, index: model) -> Steps:  # fmt: skip
    """Goes through the hooks: `grow` makes the model of a task, a change is what its training does."""
    found = Steps([], [], [])
    folder.mkdir(parents=True, exist_ok=True)
    places = {"pretrained": folder / "start.safetensors", "previous": folder / "start.safetensors"}
    save_model(start, str(places["pretrained"]))
    for index, change in enumerate(changes):
        active = methods.build(method)
        model = copy.deepcopy(start if not index or active.config.starts_from == "pretrained" else found.models[-1])
        for past in range(index + 1) if active.config.starts_from == "pretrained" else [index]:
            model = grow(model, past)
        if index:
            read_state(active, folder / f"state-{index - 1}")
        own = TensorExamples(torch.zeros(2, 1), torch.zeros(2, dtype=torch.long))
        task = Task(index, f"task{index}", seed(index), model, checkpoint=lambda source, p=dict(places): p[source],
                    rows=[[0]] * (index + 1))  # fmt: skip
        active.task_start(task)
        found.begun.append(copied(model))
        with torch.no_grad():
            model = change(model)
            active.task_end(task, own)
        (folder / f"state-{index}").mkdir()
        write_state(active, folder / f"state-{index}")
        places["previous"] = folder / f"model-{index}.safetensors"
        save_model(model, str(places["previous"]))
        found.models.append(model)
        found.methods.append(active)
    return found


class Vector(nn.Module):
    """One tensor, and a counter."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(values.clone())
        self.register_buffer("count", torch.zeros((), dtype=torch.long))


def added(values: list[float] | Tensor) -> Callable[[nn.Module], nn.Module]:
    def change(model: nn.Module) -> nn.Module:
        model.weight += torch.as_tensor(values, dtype=torch.float64).to(model.weight)
        model.count += 1
        return model

    return change


class Grown(nn.Module):
    """A head that is used twice, under two names; a row is added for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 2).double()
        self.head = nn.Linear(2, 2).double()
        self.again = self.head


def add_row(model: nn.Module, index: int) -> nn.Module:
    """Task 0 has the two rows of the start model; rows of later tasks are drawn by their number."""
    if index:
        layer, draws = model.head, torch.Generator().manual_seed(index)
        fresh = torch.randn(1, 2, generator=draws, dtype=torch.float64)
        layer.weight = nn.Parameter(torch.cat([layer.weight, fresh]))
        layer.bias = nn.Parameter(torch.cat([layer.bias, fresh[:, 0]]))
        layer.out_features += 1
    return model


def shifted(number: int) -> Callable[[nn.Module], nn.Module]:
    def change(model: nn.Module) -> nn.Module:
        for parameter in model.parameters():
            draws = torch.Generator().manual_seed(50 + number)
            parameter.add_(torch.randn(parameter.shape, generator=draws, dtype=torch.float64))
        return model

    return change
