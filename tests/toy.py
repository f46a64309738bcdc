"""A toy stream in float64, and the loop over its tasks without run folder, evaluation or files but the anchor's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stockpot import methods
from stockpot.batches.examples import Batch, TensorExamples, TrainingData
from stockpot.batches.losses import SINGLE_LABEL, ProblemType
from stockpot.methods.base import Method, Task
from stockpot.seeds import derive, seed_everything
from stockpot.training import dispatch
from stockpot.training.batches import EpochBatches
from stockpot.training.job import Interrupted, Job, planned_steps
from stockpot.training.method_state import read_state, write_state

LOOPS = ["trainer", "plain"]
CLASSES = 4
STEPS = 6  # of a task: ⌈22 / 8⌉ batches, two epochs
SETTINGS: dict[str, Any] = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 8,
    "learning_rate": 0.05,
    "lr_scheduler_type": "constant",
    "use_cpu": True,
}
Weights = dict[str, Tensor]


def examples(task: int, many: int = 22) -> TensorExamples:
    """Inputs (1, 2, 3) of one task in float64: two of the four classes, two clouds."""
    draws = torch.Generator().manual_seed(100 + task)
    labels = torch.arange(many) % 2 + 2 * (task % 2)
    centres = torch.randn(CLASSES, 1, 2, 3, generator=draws, dtype=torch.float64)
    noise = torch.randn(many, 1, 2, 3, generator=draws, dtype=torch.float64)
    return TensorExamples(centres[labels] + 0.5 * noise, labels)


def network(dropout: float = 0.0, norm: bool = False) -> nn.Sequential:
    """Six inputs, five hidden units, four classes, in float64."""
    torch.manual_seed(42)
    middle = [nn.BatchNorm1d(5)] if norm else []
    layers = [nn.Flatten(), nn.Linear(6, 5), *middle, nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, CLASSES)]
    return nn.Sequential(*layers).double()


def copied(model: nn.Module) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def standing_at(weights: Weights) -> nn.Module:
    """The toy network with these weights."""
    model = network()
    model.load_state_dict(weights)
    return model


def config(name: str, **keys: Any) -> Any:
    return methods.registry()[name].config_type(name=name, **keys)


Begun = tuple[Method, Task, TrainingData, Job]


@dataclass
class Learnt:
    """What a stream left: the weights at its start and after each task, the methods, and what each trained on."""

    weights: list[Weights]
    loop: str
    begin: Callable[..., Begun]  # `begin(index, model, checkpoints)`: what is ready to train a task
    start: nn.Module
    examples: Sequence[TensorExamples]
    methods: list[Method] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    data: list[TrainingData] = field(default_factory=list)
    optimizer: list[dict[str, Tensor]] = field(default_factory=list)


def valued(task: int, regression: bool, many: int = 22) -> TensorExamples:
    """The inputs of `examples` with two numbers, or labels, each: rows 0 and 1, then 1 and 2; some are unknown.

    What row 1 stands for is turned round in the second task.
    """
    inputs = examples(task, many).pixel_values
    values = inputs.flatten(1)[:, :2] * (1 - 2 * task)
    labels = torch.full((many, CLASSES), torch.nan, dtype=torch.float64)
    labels[:, [1, 2 * task]] = values if regression else (values > 0).double()
    labels[::5, 2 * task] = torch.nan
    return TensorExamples(inputs, labels)


def rows_of(task: TensorExamples) -> list[int]:
    """The output rows that a task has labels for."""
    if task.labels.is_floating_point():
        return (~task.labels.isnan()).any(0).nonzero().flatten().tolist()
    return sorted(set(task.labels.tolist()))


Train = Callable[..., Learnt]  # the fixture `train` of tests/methods/conftest.py


def learn(
    method: Any,
    loop: str,
    folder: Path,
    *,
    tasks: Sequence[TensorExamples] | None = None,
    model: nn.Module | None = None,
    build: Callable[[Any], Method] = methods.build,
    carry: bool = False,
    owners: Tensor | None = None,
    class_weights: Tensor | None = None,
    problem: ProblemType = SINGLE_LABEL,
    seed: int = 0,
    **settings: Any,
) -> Learnt:
    """Learns two toy tasks, or those that are given, with a method's configuration, through one of the loops."""
    tasks = [examples(0), examples(1)] if tasks is None else tasks
    current = copy.deepcopy(model or network())
    start = copy.deepcopy(current)

    def place(index: int) -> Path:
        return folder / f"model-{index}"

    def save(index: int) -> None:
        place(index).mkdir(parents=True, exist_ok=True)
        save_file(copied(current), place(index) / "model.safetensors")

    def begin(index: int, current: nn.Module, checkpoints: Path, resume_from: Path | None = None) -> Begun:
        active = build(method.decided(CLASSES, not tasks[index].has_classes))
        if active.config.starts_from == "pretrained":
            current = copy.deepcopy(start)
        if index:
            read_state(active, folder / f"state-{index - 1}")
        task = Task(
            index=index,
            name=f"task{index}",
            seed=derive(seed, "task", index),
            model=current,
            past=[lambda past=past: past for past in tasks[:index]],
            checkpoint=lambda source: {"previous": place(index - 1), "pretrained": place(-1)}.get(source, Path(source)),
            rows=[rows_of(other) for other in tasks[: index + 1]],
            owners=owners,
            problem=problem,
            language=not tasks[index].has_classes,
        )
        seed_everything(task.seed)
        data = active.training_data(task, tasks[index])
        job = Job(current, active, data, {**SETTINGS, **settings}, task.seed, checkpoints, owners=owners)
        job.class_weights = class_weights
        job.problem = problem
        job.optimizer_state = learnt.optimizer[index - 1] if carry and index else None
        job.resume_from = resume_from
        task.total_steps = planned_steps(job)
        active.task_start(task)
        return active, task, data, job

    save(-1)
    learnt = Learnt([copied(current)], loop, begin, start, tasks)
    for index, task_examples in enumerate(tasks):
        active, task, data, job = begin(index, current, folder / "checkpoints")
        current = job.model
        learnt.optimizer.append(dispatch.train(job, loop))
        active.task_end(task, task_examples)
        (folder / f"state-{index}").mkdir(exist_ok=True)
        write_state(active, folder / f"state-{index}")
        save(index)
        learnt.weights.append(
            {name: tensor.clone() for name, tensor in load_file(place(index) / "model.safetensors").items()}
        )
        learnt.methods.append(active)
        learnt.tasks.append(task)
        learnt.data.append(data)
    return learnt


def taken_up(learnt: Learnt, step: int, folder: Path) -> tuple[Weights, dict[str, Tensor]]:
    """The last task once more, stopped after a step, and taken up from its checkpoint by another model and method: the
    weights that it leaves, and the state of the optimizer."""
    index = len(learnt.tasks) - 1

    def before() -> nn.Module:
        model = copy.deepcopy(learnt.start)
        model.load_state_dict(learnt.weights[index])
        return model

    stopped, checkpoints = learnt.begin(index, before(), folder)[3], []
    stopped.on_step = lambda done, _: setattr(stopped.stop, "requested", done == step)
    stopped.on_checkpoint = lambda done, place: checkpoints.append((done, place))
    with pytest.raises(Interrupted):
        dispatch.train(stopped, learnt.loop)
    [(done, checkpoint)] = checkpoints
    assert done == step
    active, task, _, job = learnt.begin(index, before(), folder / "again", checkpoint)
    optimizer = dispatch.train(job, learnt.loop)
    active.task_end(task, learnt.examples[index])
    return copied(job.model), optimizer


def by_hand(
    start: Weights,
    data: TrainingData,
    seed: int,
    after: Callable[[int, Weights, torch.optim.Optimizer], torch.optim.Optimizer | None] | None = None,
    *,
    model: nn.Module | None = None,
    extra: Callable[[nn.Module, Batch], Tensor] | None = None,
    class_weights: Tensor | None = None,
    loss: Callable[[nn.Module, Batch], Tensor] | None = None,
    epochs: int = 2,
    batch_size: int = 8,
    learning_rate: float = 0.05,
) -> Weights:
    """Ten lines of torch: AdamW over the same batches; `after(step, weights, optimizer)` may change the weights in
    place, and may return another optimizer; `extra(model, batch)` is added to the loss."""
    model = copy.deepcopy(model or network())
    model.load_state_dict(start)
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    batches, step = EpochBatches(data, batch_size, seed), 0
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        for indices in batches:
            batch = data.examples.__getitems__(indices)
            value = (
                nn.functional.cross_entropy(model(batch["pixel_values"]), batch["labels"], class_weights)
                if loss is None
                else loss(model, batch)
            )
            if extra is not None:
                value = value + extra(model, batch)
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            if after is not None:
                optimizer = after(step, dict(model.state_dict()), optimizer) or optimizer
    return copied(model)


def held(*terms: tuple[float, Weights | None, Weights]) -> Callable[[nn.Module, Batch], Tensor]:
    """Σ factor·Σ F (θ−θ*)² over (factor, F, θ*), for `by_hand`'s extra; F is 1 where it is None."""

    def extra(model: nn.Module, batch: Batch) -> Tensor:
        total = torch.zeros(())
        for factor, importance, anchor in terms:
            for name, tensor in model.named_parameters():
                gap = (tensor - anchor[name]).square()
                total = total + factor * (gap if importance is None else importance[name] * gap).sum()
        return total

    return extra


def seed(index: int) -> int:
    """Of the task, in a run of seed 0."""
    return derive(0, "task", index)


def averaged(anchor: Weights, beta: float, steps: list[int]) -> Callable[[int, Weights, torch.optim.Optimizer], None]:
    """θ ← (1−β)θ + βθ_o after the given steps, written out."""

    def after(step: int, weights: Weights, optimizer: torch.optim.Optimizer) -> None:
        if step in steps:
            for name, tensor in weights.items():
                tensor.copy_((1 - beta) * tensor + beta * anchor[name])

    return after


def assert_same(one: Weights, other: Weights) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), f"{name} differs by {float((tensor - other[name]).abs().max())}"


def assert_close(one: Weights, other: Weights, tolerance: float = 1e-12) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(
            tensor, other[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def differ(one: Weights, other: Weights) -> bool:
    return any(not torch.equal(tensor, other[name]) for name, tensor in one.items())
