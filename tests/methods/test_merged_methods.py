"""Methods that merge after each task: every mode by hand, what is kept, grown heads, tied weights, and resuming."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_model
from torch import Tensor, nn
from toy import (
    LOOPS,
    SETTINGS,
    Learnt,
    Weights,
    assert_close,
    assert_same,
    by_hand,
    config,
    copied,
    differ,
    examples,
    learn,
    network,
    seed,
)

import stockpot
from stockpot.batches.examples import Examples, TensorExamples, TrainingData
from stockpot.errors import StockpotError
from stockpot.methods import dare, fisher_average, magmax, soup, task_arithmetic, ties
from stockpot.methods.base import Method, Task
from stockpot.methods.shared.merged import MergedConfig
from stockpot.models.spec import ModelSpec
from stockpot.models.start import start_model
from stockpot.models.store import save_model as save_pretrained
from stockpot.seeds import derive, generator
from stockpot.training import engine
from stockpot.training.job import Interrupted, Job, planned_steps
from stockpot.training.method_state import read_state, write_state

KNOWN: dict[str, tuple[type[MergedConfig], type[Method]]] = {
    "task_arithmetic": (task_arithmetic.TaskArithmeticConfig, task_arithmetic.TaskArithmetic),
    "ties": (ties.TiesConfig, ties.TiesMerging),
    "dare": (dare.DareConfig, dare.Dare),
    "soup": (soup.SoupConfig, soup.UniformSoup),
    "magmax": (magmax.MagMaxConfig, magmax.MagMax),
    "fisher_average": (fisher_average.FisherAverageConfig, fisher_average.FisherAverage),
}
CHAINS: list[dict[str, Any]] = [
    {"mode": "chain", "continue_from": go_on, "vectors": vectors}
    for go_on in ("raw", "merged")
    for vectors in ("consecutive", "start")
]
TASKS = [examples(index) for index in range(3)]


def settings(name: str, **keys: Any) -> Any:
    return KNOWN[name][0](name=name, **keys)


def built(method: Any) -> Method:
    return KNOWN[method.name][1](method)


def run(name: str, folder: Path, loop: str = "plain", **keys: Any) -> Learnt:
    """Three toy tasks."""
    return learn(settings(name, **keys), loop, folder, tasks=TASKS, build=built)


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


@pytest.fixture
def fishers(monkeypatch: pytest.MonkeyPatch) -> list[Weights]:
    """Random Fishers in place of estimated ones; gives the models at which they were asked for."""
    found: list[Weights] = []

    def fisher(model: nn.Module, own: Examples, kind: str, **more: Any) -> Weights:
        found.append(copied(model))
        return {name: torch.rand(one.shape, generator=more["draws"]).to(one) for name, one in model.named_parameters()}

    monkeypatch.setattr(fisher_average, "fisher", fisher)
    return found


@pytest.mark.parametrize("loop", LOOPS)
def test_task_arithmetic_adds_the_vectors_of_tasks_that_were_trained_apart(loop: str, tmp_path: Path) -> None:
    learnt, models = run("task_arithmetic", tmp_path, loop, scale=0.3), parallel()
    start = learnt.weights[0]
    vectors = [plus(model, start, -1) for model in models]
    assert_close(learnt.weights[1], models[0])  # the first task is not merged
    assert_close(learnt.weights[2], total(start, vectors[:2], 0.3))
    assert_close(learnt.weights[3], total(start, vectors, 0.3))
    assert_close(run("task_arithmetic", tmp_path / "default").weights[3], total(start, vectors, 0.4))


@pytest.mark.parametrize("loop", LOOPS)
def test_task_arithmetic_over_a_raw_chain_is_plain_fine_tuning_at_lambda_one(loop: str, tmp_path: Path) -> None:
    learnt = run("task_arithmetic", tmp_path, loop, mode="chain", scale=1.0)
    for weights, plain in zip(learnt.weights[1:], chain(), strict=True):
        assert_close(weights, plain, 1e-12)


@pytest.mark.parametrize("first", ["skip", "average"])
@pytest.mark.parametrize("keys", CHAINS, ids=lambda keys: f"{keys['continue_from']}-{keys['vectors']}")
def test_a_chain_goes_on_and_counts_its_vectors_from_where_it_says(
    keys: dict[str, Any], first: str, tmp_path: Path
) -> None:
    learnt = run("task_arithmetic", tmp_path, scale=0.3, first_task=first, **keys)
    start = current = copied(network())
    vectors: list[Weights] = []
    for index in range(3):
        trained = task(index, current)
        vectors.append(plus(trained, current if keys["vectors"] == "consecutive" else start, -1))
        merged = trained if index == 0 and first == "skip" else total(start, vectors, 0.3)
        assert_close(learnt.weights[index + 1], merged)
        current = trained if keys["continue_from"] == "raw" else merged


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("vectors", ["consecutive", "start"])
def test_training_from_raw_weights_is_bitwise_the_plain_run(vectors: str, loop: str, tmp_path: Path) -> None:
    plain = learn(config("sequential"), loop, tmp_path / "plain", tasks=TASKS)
    learnt = run("task_arithmetic", tmp_path / "chain", loop, mode="chain", vectors=vectors)
    kind = {"consecutive": "raw/0", "start": "points/{}"}[vectors]
    for index in range(3):
        state = load_file(tmp_path / "chain" / f"state-{index}" / "method.safetensors")
        raw = {name: state[f"{kind.format(index)}/{name}"] for name in plain.weights[0]}
        assert_same(raw, plain.weights[index + 1])
        assert differ(learnt.weights[index + 1], plain.weights[index + 1]) == (index > 0)


@pytest.mark.parametrize("name", KNOWN)
def test_the_first_task_is_bitwise_that_of_plain_fine_tuning(name: str, fishers: list[Weights], tmp_path: Path) -> None:
    plain = learn(config("sequential"), "plain", tmp_path / "plain", tasks=TASKS)
    learnt = run(name, tmp_path / "merged")
    assert_same(learnt.weights[1], plain.weights[1])
    assert [note.partition(":")[0] for note in learnt.methods[0].notes] == [
        "task 'task0' is the first and was not merged (first_task"
    ]
    moved = max(float((tensor - plain.weights[3][key]).abs().max()) for key, tensor in learnt.weights[3].items())
    assert moved > 1e-2


@pytest.mark.parametrize(("name", "keys"), [("task_arithmetic", {}), ("ties", {}), ("dare", {}),
                                            ("dare", {"elect": True}), ("magmax", {})])  # fmt: skip
def test_lambda_zero_is_the_start_model_bitwise(name: str, keys: dict[str, Any], tmp_path: Path) -> None:
    learnt = run(name, tmp_path, scale=0.0, first_task="average", **keys)
    for weights in learnt.weights[1:]:
        assert_same(weights, learnt.weights[0])


@pytest.mark.parametrize("trim", ["model", "tensor"])
def test_ties_is_the_merge_rule_on_models_trained_by_hand(trim: str, tmp_path: Path) -> None:
    learnt, models = run("ties", tmp_path, trim=trim, density=0.3, scale=0.8), parallel()
    merged = stockpot.merge("ties", models, learnt.weights[0], trim=trim, density=0.3, lambda_=0.8)
    assert_close(learnt.weights[3], merged)
    other = stockpot.merge("ties", models, learnt.weights[0], trim={"model": "tensor", "tensor": "model"}[trim],
                           density=0.3, lambda_=0.8)  # fmt: skip
    assert max(float((merged[key] - other[key]).abs().max()) for key in merged) > 1e-2
    usual = stockpot.merge("ties", models, learnt.weights[0], density=0.2)
    assert_close(run("ties", tmp_path / "default").weights[3], usual)


def test_soup_is_the_mean_of_the_raw_models(tmp_path: Path) -> None:
    for models, keys in ((parallel(), {}), (chain(), {"mode": "chain"})):
        learnt = run("soup", tmp_path / keys.get("mode", "parallel"), **keys)
        assert_close(learnt.weights[2], mean(models[:2]))
        assert_close(learnt.weights[3], mean(models))


@pytest.mark.parametrize("loop", LOOPS)
def test_magmax_takes_the_largest_change_since_the_start(loop: str, tmp_path: Path) -> None:
    learnt, start = run("magmax", tmp_path, loop, scale=0.7), copied(network())
    for name, tensor in learnt.weights[3].items():
        changes = torch.stack([model[name] - start[name] for model in chain()])
        largest = changes.gather(0, changes.abs().argmax(0, keepdim=True))[0]
        torch.testing.assert_close(tensor, start[name] + 0.7 * largest, rtol=1e-12, atol=1e-12)
        assert len(set(changes.abs().argmax(0).flatten().tolist())) > 1 or tensor.numel() < 6


def test_dare_keeps_or_drops_whole_elements_of_each_vector(tmp_path: Path) -> None:
    start, models, density = copied(network()), parallel()[:2], 0.25
    learnt = run("dare", tmp_path / "a", density=density, scale=0.5)
    kept = 0
    for name, tensor in learnt.weights[2].items():
        one, two = ((model[name] - start[name]) / density for model in models)
        change = (tensor - start[name]) / 0.5
        could = torch.stack([torch.zeros_like(one), one, two, one + two])
        which = (could - change).abs().argmin(0)
        torch.testing.assert_close(could.gather(0, which[None])[0], change, rtol=0, atol=1e-12)
        kept += int(((which == 1) | (which == 3)).sum() + ((which == 2) | (which == 3)).sum())
    elements = 2 * sum(tensor.numel() for tensor in start.values())
    assert abs(kept / elements - density) < 4 * (density * (1 - density) / elements) ** 0.5
    merged = stockpot.merge("dare_linear", models, start, density=density, lambda_=0.5, seed=derive(seed(1), "dare"))
    assert_close(learnt.weights[2], merged)


def test_dare_that_drops_nothing_is_task_arithmetic_or_ties(tmp_path: Path) -> None:
    for one, other in (({}, ("task_arithmetic", {})), ({"elect": True}, ("ties", {"density": 1.0}))):
        name = other[0]
        learnt = run("dare", tmp_path / f"dare-{name}", density=1.0, **one)
        assert_same(learnt.weights[3], run(name, tmp_path / name, **other[1]).weights[3])


def test_fisher_average_weighs_each_model_by_its_own_fisher(fishers: list[Weights], tmp_path: Path) -> None:
    learnt, models = run("fisher_average", tmp_path), parallel()
    for at, model in zip(fishers, models, strict=True):
        assert_close(at, model)  # each estimated at what training left
    for index in range(3):
        draws = generator(seed(index), "fisher")
        fishers[index] = {name: torch.rand(one.shape, generator=draws).double() for name, one in models[index].items()}
    assert_close(learnt.weights[3], weighted(models, fishers))


def weighted(models: list[Weights], fishers: list[Weights]) -> Weights:
    found = {}
    for name in models[0]:
        weights = torch.stack([one[name] for one in fishers]) + 1e-12
        found[name] = (weights * torch.stack([model[name] for model in models])).sum(0) / weights.sum(0)
    return found


@pytest.mark.parametrize("loop", LOOPS)
def test_fisher_average_with_the_exact_fisher_of_each_model(loop: str, tmp_path: Path) -> None:
    learnt, models, found = run("fisher_average", tmp_path, loop, samples=None), parallel(), []
    for own, weights in zip(TASKS, models, strict=True):
        model = network()
        model.load_state_dict(weights)
        squares = {name: torch.zeros_like(one) for name, one in weights.items()}
        for image in own.pixel_values:
            logs = model(image[None])[0].log_softmax(0)
            for row in range(4):
                gradients = torch.autograd.grad(logs[row], list(model.parameters()), retain_graph=True)
                for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
                    squares[name] += logs[row].exp().detach() * gradient**2 / len(own)
        found.append(squares)
    assert_close(learnt.weights[3], weighted(models, found), 1e-10)
    assert max(float((tensor - mean(models)[name]).abs().max()) for name, tensor in learnt.weights[3].items()) > 1e-2


def test_fisher_average_with_equal_fishers_is_the_soup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def ones(model: nn.Module, own: Examples, kind: str, **more: Any) -> Weights:
        return {name: torch.full_like(one, 0.37) for name, one in model.named_parameters()}

    monkeypatch.setattr(fisher_average, "fisher", ones)
    learnt = run("fisher_average", tmp_path / "fisher", first_task="average")
    assert_close(learnt.weights[1], parallel()[0])  # the mean of one model
    assert_close(learnt.weights[3], run("soup", tmp_path / "soup").weights[3])


def test_fisher_average_asks_for_the_fisher_of_its_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[Any, ...]] = []

    def fisher(model: nn.Module, own: Examples, kind: str, **more: Any) -> Weights:
        asked.append((own, kind, more["samples"], more["draws"].initial_seed()))
        batch = own.__getitems__([0, 1])
        assert torch.equal(more["logits"](model, batch), model(batch["pixel_values"]))
        return {name: torch.ones_like(one) for name, one in model.named_parameters()}

    monkeypatch.setattr(fisher_average, "fisher", fisher)
    run("fisher_average", tmp_path / "default")
    run("fisher_average", tmp_path / "other", fisher="empirical", samples=7)
    assert [(one[0], *one[1:3]) for one in asked[:3]] == [(own, "exact", 500) for own in TASKS]
    assert [(one[0], *one[1:3]) for one in asked[3:]] == [(own, "empirical", 7) for own in TASKS]
    assert [one[3] for one in asked[:3]] == [derive(seed(index), "fisher") for index in range(3)]


@pytest.mark.parametrize(
    ("name", "keys", "loop"),
    [
        *((name, {}, "plain") for name in KNOWN),
        *(("ties", keys, "plain") for keys in CHAINS),
        ("dare", {}, "trainer"),
        ("task_arithmetic", CHAINS[0], "trainer"),
    ],
    ids=str,
)
def test_a_task_that_is_stopped_and_resumed_ends_bitwise_alike(
    name: str, keys: dict[str, Any], loop: str, fishers: list[Weights], tmp_path: Path
) -> None:
    whole = run(name, tmp_path, loop, **keys)

    def third(folder: Path, resume: Path | None = None, stop_at: int = 0) -> tuple[Weights, Method, Path | None]:
        method, saved = built(settings(name, **keys)), []
        model = network()
        if method.config.starts_from == "previous":
            model.load_state_dict(whole.weights[2])
        read_state(method, tmp_path / "state-1")
        places = {"previous": tmp_path / "model-1", "pretrained": tmp_path / "model--1"}
        task = Task(2, "task2", seed(2), model, checkpoint=lambda source: places[source], rows=whole.tasks[2].rows)
        job = Job(model, method, method.training_data(task, TASKS[2]), SETTINGS, task.seed, folder)
        job.resume_from = resume
        job.on_checkpoint = lambda step, place: saved.append(place)

        def look(step: int, total: int) -> None:
            job.stop.requested = step == stop_at

        job.on_step = look
        task.total_steps = planned_steps(job)
        method.task_start(task)
        try:
            engine.train(job, loop)
        except Interrupted:
            return copied(model), method, saved[-1]
        method.task_end(task, TASKS[2])
        return copied(model), method, None

    _, _, checkpoint = third(tmp_path / "broken", stop_at=4)
    assert checkpoint is not None
    assert not load_file(checkpoint / "method.safetensors")  # what did not change is not written again
    weights, method, _ = third(tmp_path / "again", checkpoint)
    assert_same(weights, whole.weights[3])
    state, expected = method.state(), whole.methods[2].state()
    assert_same(state[0], expected[0])
    assert state[1] == expected[1]


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
        active = built(method)
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


def test_ties_gives_the_golden_example_of_the_reference(tmp_path: Path) -> None:
    start = Vector(torch.zeros(5, dtype=torch.float64))
    vectors = [[1, -0.2, 0.5, 0, -3], [-0.4, -0.6, 0.7, 0.1, 1], [0.3, 0.9, -0.9, 0, 2.5]]
    found = steps(settings("ties", density=0.6), tmp_path, start, [added(vector) for vector in vectors])
    expected = torch.tensor([1, 0.9, 0.6, 0, 1.75], dtype=torch.float64)
    torch.testing.assert_close(found.models[2].weight.data, expected, rtol=1e-14, atol=1e-15)


def test_counters_stay_as_the_newest_model_has_them(tmp_path: Path) -> None:
    model = Vector(torch.ones(3, dtype=torch.float64))
    found = steps(settings("magmax"), tmp_path, model, [added([1.0, 2, 3])] * 3)
    assert [int(one.count) for one in found.models] == [1, 2, 3]


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


@pytest.mark.parametrize("keys", [{}, *CHAINS], ids=lambda keys: f"{keys.get('continue_from')}-{keys.get('vectors')}")
def test_rows_that_the_start_lacks_are_merged_over_the_values_they_were_drawn_with(
    keys: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    start = Grown()
    found = steps(settings("task_arithmetic", scale=0.3, **keys), tmp_path, start,
                  [shifted(index) for index in range(3)], add_row)  # fmt: skip
    full = copy.deepcopy(start)
    for index in range(3):
        full = add_row(full, index)
    base = copied(full)  # 4 rows, as they were drawn

    current: Weights = {}
    vectors: list[Weights] = []
    for index in range(3):
        rows = 2 + index
        here = {name: tensor[:rows] if "body" not in name else tensor for name, tensor in base.items()}
        begin = {
            name: torch.cat([current[name], tensor[len(current[name]) :]]) if current and keys else tensor
            for name, tensor in here.items()
        }
        assert_close(found.begun[index], begin)
        model = copy.deepcopy(found.models[index])
        model.load_state_dict(begin)
        with torch.no_grad():
            trained = copied(shifted(index)(model))
        vector = plus(trained, begin if keys.get("vectors") == "consecutive" else here, -1)
        vectors.append(vector)
        merged = here
        for one in vectors:  # an older vector is zero where a row came later
            merged = {
                name: tensor + 0.3 * torch.cat([one[name], torch.zeros_like(tensor)[len(one[name]) :]])
                for name, tensor in merged.items()
            }
        merged = trained if index == 0 else merged
        assert_close(copied(found.models[index]), merged)
        assert found.models[index].again.weight is found.models[index].head.weight
        current = trained if keys.get("continue_from") == "raw" else merged


def test_fisher_average_takes_a_row_that_only_the_newest_model_had_from_that_model(
    fishers: list[Weights], tmp_path: Path
) -> None:
    found = steps(settings("fisher_average"), tmp_path, Grown(), [shifted(index) for index in range(2)], add_row)
    merged, newest = copied(found.models[1]), fishers[1]
    torch.testing.assert_close(merged["head.weight"][2:], newest["head.weight"][2:], rtol=1e-10, atol=1e-10)
    assert (merged["head.weight"][:2] - newest["head.weight"][:2]).abs().max() > 1e-2


def test_tied_weights_count_once_and_stay_tied(tmp_path: Path) -> None:
    found = steps(settings("task_arithmetic"), tmp_path, Grown(), [shifted(0), shifted(1)])
    state = found.methods[1].state()[0]
    assert {key.split("/", 2)[2] for key in state} == {"body.weight", "body.bias", "head.weight", "head.bias"}
    assert found.models[1].again.weight is found.models[1].head.weight


@pytest.mark.parametrize("vectors", ["start", "consecutive"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once_at_the_end(dtype: torch.dtype, vectors: str, tmp_path: Path) -> None:
    draws = torch.Generator().manual_seed(0)
    start = torch.randn(200, generator=draws).to(dtype)
    # Changes that the type holds beside these weights, of several sizes.
    shifts = [torch.randn(200, generator=draws).to(dtype) * size for size in (0.01, 0.003, 0.1)]
    found = steps(settings("task_arithmetic", scale=0.4, mode="chain", vectors=vectors), tmp_path, Vector(start),
                  [added(shift) for shift in shifts])  # fmt: skip
    models = [start]
    for shift in shifts:
        models.append(models[-1] + shift)
    vectors_ = [(b.double() - (a if vectors == "consecutive" else start).double()) for a, b in pairwise(models)]
    exact = start.double() + 0.4 * sum(vectors_)
    merged = found.models[2].weight.data
    assert merged.dtype == dtype
    # fp32 in between: at most a tie goes the other way.
    assert (merged != exact.to(dtype)).sum() <= 2


def test_a_start_that_is_saved_under_other_names_is_found(tmp_path: Path) -> None:
    """Transformers keeps a ViT's tensors on disk by older names than the model's own."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    spec = ModelSpec(config={"model_type": "vit", "image_size": 8, "patch_size": 4, **sizes})
    model = start_model(spec, 3, seed=0)
    save_pretrained(model, tmp_path, spec, 3)
    assert set(load_file(tmp_path / "model.safetensors")) != set(model.state_dict())
    method, start = built(settings("task_arithmetic", scale=0.5, first_task="average")), copied(model)
    task = Task(0, "task0", 0, model, checkpoint=lambda source: tmp_path)
    method.task_start(task)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    method.task_end(task, TASKS[0])
    assert_close(copied(model), {name: tensor + 0.5 for name, tensor in start.items()}, 1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_on_a_gpu_stays_there_and_is_merged_alike(fishers: list[Weights], tmp_path: Path) -> None:
    start = Vector(torch.randn(50, generator=torch.Generator().manual_seed(0)))
    changes = [added(torch.randn(50, generator=torch.Generator().manual_seed(number))) for number in (1, 2, 3)]
    for name in KNOWN:
        here = steps(settings(name), tmp_path / name, start, changes).models[-1]
        there = steps(settings(name), tmp_path / f"{name}-gpu", start, changes, lambda model, _: model.cuda()).models[
            -1
        ]
        assert there.weight.is_cuda
        assert_same({"weight": there.weight.cpu()}, {"weight": here.weight})


def test_running_statistics_are_merged_and_their_counter_is_not(tmp_path: Path) -> None:
    learnt = learn(settings("soup"), "plain", tmp_path, tasks=TASKS, model=network(norm=True), build=built)
    first, *rest = (load_file(tmp_path / "state-2" / "method.safetensors")[f"points/{task}/2.running_mean"]
                    for task in range(3))  # fmt: skip
    torch.testing.assert_close(learnt.weights[3]["2.running_mean"], (first + sum(rest)) / 3, rtol=1e-12, atol=1e-12)
    assert learnt.weights[3]["2.num_batches_tracked"] == 6


def test_what_merging_costs_is_counted(fishers: list[Weights], tmp_path: Path) -> None:
    model = sum(tensor.nbytes for tensor in copied(network()).values())
    for name, keys, each, beside in [
        ("task_arithmetic", {}, 1, 0), ("magmax", {}, 1, 0), ("fisher_average", {}, 2, 0),
        ("ties", {"mode": "chain"}, 1, 1), ("ties", {"mode": "chain", "continue_from": "merged"}, 1, 0),
    ]:  # fmt: skip
        folder = tmp_path / f"{name}-{len(keys)}"
        costs = [method.costs for method in run(name, folder, **keys).methods]
        start = (folder / "model--1" / "model.safetensors").stat().st_size
        assert [one.averages for one in costs] == [0, 1, 1]
        assert [one.averaging_seconds > 0 for one in costs] == [False, True, True]
        kept = [model * (each * (index + 1) + beside) for index in range(3)]
        assert [one.stored_bytes - start for one in costs] == kept
        assert [one.extra_memory_bytes for one in costs] == [0, *kept[:2]]


def test_the_notes_say_what_was_merged(tmp_path: Path) -> None:
    said = [run("task_arithmetic", tmp_path / "a").methods[1].notes,
            run("ties", tmp_path / "b", mode="chain", continue_from="merged").methods[2].notes,
            run("magmax", tmp_path / "c").methods[1].notes]  # fmt: skip
    assert said == [
        ["merged 2 tasks by task_arithmetic λ=0.4 (mode: parallel, vectors: from the start)"],
        ["merged 3 tasks by ties density=0.2 λ=1.0 trim=model (mode: chain of merged models, vectors: consecutive)"],
        ["merged 2 tasks by magmax λ=1.0 (mode: chain of raw models, vectors: from the start)"],
    ]


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("ties", {"continue_from": "raw"}, "continue_from is for mode: chain"),
        ("ties", {"vectors": "consecutive"}, "consecutive is for mode: chain"),
        ("soup", {"mode": "chain", "vectors": "consecutive"}, "consecutive makes no models"),
        ("magmax", {"mode": "parallel", "continue_from": "raw"}, "continue_from is for mode: chain"),
        ("task_arithmetic", {"scale": -0.1}, "greater than or equal to 0"),
        ("dare", {"density": 0.0}, "greater than 0"),
        ("fisher_average", {"samples": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(name, **keys)


@pytest.mark.parametrize("name", KNOWN)
def test_one_task_that_is_skipped_is_a_problem(name: str) -> None:
    assert "nothing would ever be merged" in str(settings(name).settled("code").problem_with(1))
    assert settings(name).settled("checkpoint").problem_with(1) is None
    assert settings(name).problem_with(2) is None
    assert settings(name, first_task="average").problem_with(1) is None


def test_a_start_of_another_shape_is_named(tmp_path: Path) -> None:
    def wider(model: nn.Module, index: int) -> nn.Module:
        model.body = nn.Linear(4, 2).double()
        return model

    with pytest.raises(StockpotError, match=r"'body.weight' has the shape \(2, 4\) and in the start weights \(2, 3\)"):
        steps(settings("soup"), tmp_path, Grown(), [shifted(0)], wider)


def test_fishers_in_memory_are_those_of_files(tmp_path: Path) -> None:
    from stockpot.weights.checkpoint import save_checkpoint

    draws = torch.Generator().manual_seed(0)
    models, held = ([{"a": torch.randn(3, 2, generator=draws).abs(), "b": torch.randn(4, generator=draws).abs()}
                     for _ in range(2)] for _ in range(2))  # fmt: skip
    files = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for file, one in zip(files, held, strict=True):
        save_checkpoint(one, file)
        file.with_suffix(".json").write_text("{}")
    merged = stockpot.merge("fisher", models, fisher=held)
    assert_same(merged, stockpot.merge("fisher", models, fisher=[str(file) for file in files]))
    assert_same(merged, stockpot.merge("fisher", models, fisher=[held[0], str(files[1])]))
    with pytest.raises(StockpotError, match=r"fisher\[1\]: 'a' is F32 \[1, 2\]: of another model"):
        stockpot.merge("fisher", models, fisher=[held[0], {"a": torch.ones(1, 2)}])
    with pytest.raises(StockpotError, match=r"fisher\[1\] holds none of the model's tensors"):
        stockpot.merge("fisher", models, fisher=[held[0], {"c": torch.ones(1, 2)}])


@pytest.mark.parametrize("mode", ["parallel", "chain"])
def test_running_statistics_are_the_mean_of_what_the_tasks_left_whatever_the_rule(mode: str, tmp_path: Path) -> None:
    """Added up like weights they would leave a variance below zero: λ Σ (v_t − 1) for v_t near 0."""
    method = settings("task_arithmetic", mode=mode, scale=1.0)
    learnt = learn(method, "plain", tmp_path, tasks=TASKS, model=network(norm=True), build=built)
    kept = learnt.methods[-1].state()[0]
    for name in ("2.running_mean", "2.running_var"):
        left = [kept[f"points/{number}/{name}"] for number in range(len(TASKS))]
        assert differ({"it": left[0]}, {"it": left[-1]})
        torch.testing.assert_close(learnt.weights[-1][name], torch.stack(left).mean(0))
    assert (learnt.weights[-1]["2.running_var"] > 0).all()
