"""What all methods have in common that merge after each task: chains, the first task, rows, tied weights, resuming."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from merging_by_hand import CHAINS, TASKS, Grown, Vector, add_row, added, plus, run, shifted, steps, task, total
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn
from toy import LOOPS, SETTINGS, Weights, assert_close, assert_same, config, copied, differ, learn, network, seed

from stockpot import methods
from stockpot.errors import StockpotError
from stockpot.methods import registry
from stockpot.methods.base import Method, Task
from stockpot.methods.shared.merged import Merged
from stockpot.models.spec import ModelSpec
from stockpot.models.start import start_model
from stockpot.models.store import save_model as save_pretrained
from stockpot.training import dispatch
from stockpot.training.job import Interrupted, Job, planned_steps
from stockpot.training.method_state import read_state

KNOWN = [name for name, method in registry().items() if issubclass(method, Merged)]


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
        method, saved = methods.build(config(name, **keys)), []
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
            dispatch.train(job, loop)
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


def test_counters_stay_as_the_newest_model_has_them(tmp_path: Path) -> None:
    model = Vector(torch.ones(3, dtype=torch.float64))
    found = steps(config("magmax"), tmp_path, model, [added([1.0, 2, 3])] * 3)
    assert [int(one.count) for one in found.models] == [1, 2, 3]


@pytest.mark.parametrize("keys", [{}, *CHAINS], ids=lambda keys: f"{keys.get('continue_from')}-{keys.get('vectors')}")
def test_rows_that_the_start_lacks_are_merged_over_the_values_they_were_drawn_with(
    keys: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    start = Grown()
    found = steps(config("task_arithmetic", scale=0.3, **keys), tmp_path, start,
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


def test_tied_weights_count_once_and_stay_tied(tmp_path: Path) -> None:
    found = steps(config("task_arithmetic"), tmp_path, Grown(), [shifted(0), shifted(1)])
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
    found = steps(config("task_arithmetic", scale=0.4, mode="chain", vectors=vectors), tmp_path, Vector(start),
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
    method, start = methods.build(config("task_arithmetic", scale=0.5, first_task="average")), copied(model)
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
        here = steps(config(name), tmp_path / name, start, changes).models[-1]
        there = steps(config(name), tmp_path / f"{name}-gpu", start, changes, lambda model, _: model.cuda()).models[-1]
        assert there.weight.is_cuda
        assert_same({"weight": there.weight.cpu()}, {"weight": here.weight})


def test_running_statistics_are_merged_and_their_counter_is_not(tmp_path: Path) -> None:
    learnt = learn(config("soup"), "plain", tmp_path, tasks=TASKS, model=network(norm=True))
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
        ("soup", {"mode": "chain", "vectors": "consecutive"}, "consecutive does not make models"),
        ("magmax", {"mode": "parallel", "continue_from": "raw"}, "continue_from is for mode: chain"),
        ("task_arithmetic", {"scale": -0.1}, "greater than or equal to 0"),
        ("dare", {"density": 0.0}, "greater than 0"),
        ("fisher_average", {"samples": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(name, **keys)


@pytest.mark.parametrize("name", KNOWN)
def test_one_task_that_is_skipped_is_a_problem(name: str) -> None:
    assert "nothing would ever be merged" in str(config(name).settled("code").problem_with(1))
    assert config(name).settled("checkpoint").problem_with(1) is None
    assert config(name).problem_with(2) is None
    assert config(name, first_task="average").problem_with(1) is None


def test_a_start_of_another_shape_is_named(tmp_path: Path) -> None:
    def wider(model: nn.Module, index: int) -> nn.Module:
        model.body = nn.Linear(4, 2).double()
        return model

    with pytest.raises(StockpotError, match=r"'body.weight' has the shape \(2, 4\), and \(2, 3\) in the start weights"):
        steps(config("soup"), tmp_path, Grown(), [shifted(0)], wider)


@pytest.mark.parametrize("mode", ["parallel", "chain"])
def test_running_statistics_are_the_mean_of_what_the_tasks_left_whatever_the_rule(mode: str, tmp_path: Path) -> None:
    """Added up like weights they would leave a variance below zero: λ Σ (v_t − 1) for v_t near 0."""
    method = config("task_arithmetic", mode=mode, scale=1.0)
    learnt = learn(method, "plain", tmp_path, tasks=TASKS, model=network(norm=True))
    kept = learnt.methods[-1].state()[0]
    for name in ("2.running_mean", "2.running_var"):
        left = [kept[f"points/{number}/{name}"] for number in range(len(TASKS))]
        assert differ({"it": left[0]}, {"it": left[-1]})
        torch.testing.assert_close(learnt.weights[-1][name], torch.stack(left).mean(0))
    assert (learnt.weights[-1]["2.running_var"] > 0).all()
