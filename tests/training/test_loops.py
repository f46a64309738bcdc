"""Both loops: hooks in their places, gradients that are those of the whole batch, and optimizers across boundaries."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from toy import LOOPS, SETTINGS, Weights, assert_close, by_hand, config, copied, differ, examples, learn, network

from stockpot.batches.examples import TensorExamples, TrainingData
from stockpot.errors import StockpotError
from stockpot.methods import registry
from stockpot.models.head import grow_head
from stockpot.streams.scenario import mask_rivals
from stockpot.training import dispatch
from stockpot.training.batches import EpochBatches
from stockpot.training.job import Interrupted, Job, check_finite, cross_entropy, training_arguments
from stockpot.training.optimizer_state import export_state, import_state


class Recorder(registry()["sequential"]):
    """Writes down every hook, with the gradients and the weights that it saw."""

    def __init__(self, change: Callable[[nn.Module], None] | None = None) -> None:
        super().__init__(config("sequential"))
        self.calls: list[tuple[str, int]] = []
        self.seen: list[Weights] = []
        self.after: list[Weights] = []
        self.weights: list[Weights] = []
        self.change = change

    def loss(self, loss: Tensor, logits: Tensor, batch: dict[str, Tensor], model: nn.Module) -> Tensor:
        assert logits.shape == (len(batch["labels"]), 4)
        assert model.training
        self.calls.append(("loss", len(batch["labels"])))
        return loss

    def gradients(self, model: nn.Module, step: int) -> None:
        self.calls.append(("gradients", step))
        self.seen.append(gradients_of(model))
        self.weights.append(copied(model))
        if self.change is not None:
            self.change(model)

    def after_step(self, model: nn.Module, optimizer: Optimizer, step: int) -> None:
        assert type(optimizer).__module__.startswith("torch.optim")  # the optimizer itself, no wrapper
        self.calls.append(("after_step", step))
        self.after.append(gradients_of(model))
        self.weights.append(copied(model))


def gradients_of(model: nn.Module) -> Weights:
    assert all(parameter.grad is not None for parameter in model.parameters())
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def train(loop: str, folder: Path, method: Any, own: TensorExamples | None = None, **settings: Any) -> nn.Module:
    job = Job(network(), method, TrainingData.of(own or examples(0)), {**SETTINGS, **settings}, 3, folder)
    dispatch.train(job, loop)
    return job.model


@pytest.mark.parametrize("loop", LOOPS)
def test_hooks_come_in_order_once_an_optimizer_step(loop: str, tmp_path: Path) -> None:
    method = Recorder()
    train(loop, tmp_path, method, gradient_accumulation_steps=2)  # batches of 8, 8 | 6 in each of two epochs
    whole, rest = [("loss", 8), ("loss", 8)], [("loss", 6)]
    expected = []
    for step, micro in enumerate([whole, rest, whole, rest], 1):
        expected += [*micro, ("gradients", step), ("after_step", step)]
    assert method.calls == expected


@pytest.mark.parametrize("loop", LOOPS)
def test_gradients_are_seen_before_clipping_and_live_on_after_the_step(loop: str, tmp_path: Path) -> None:
    method = Recorder()
    train(loop, tmp_path, method, max_grad_norm=1e-3)
    for seen, after in zip(method.seen, method.after, strict=True):
        norm = torch.stack([gradient.norm() for gradient in seen.values()]).norm()
        assert norm > 0.01
        assert_close(after, {name: gradient * (1e-3 / (norm + 1e-6)) for name, gradient in seen.items()})
    for before, stepped in zip(method.weights[::2], method.weights[1::2], strict=True):
        assert differ(before, stepped)  # gradients come before the optimizer's step, after_step after it


@pytest.mark.parametrize("loop", LOOPS)
def test_what_a_method_does_to_the_gradients_is_what_the_optimizer_takes(loop: str, tmp_path: Path) -> None:
    def halve(model: nn.Module) -> None:
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(0.5)

    sgd = {"optim": "sgd", "max_grad_norm": 0.0, "max_steps": 1}
    start = copied(network())
    whole = copied(train(loop, tmp_path / "a", Recorder(), learning_rate=0.1, **sgd))
    half = copied(train(loop, tmp_path / "b", Recorder(halve), learning_rate=0.2, **sgd))
    assert_close(whole, half, 1e-15)
    assert differ(whole, start)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("many", "accumulation"), [(22, 3), (17, 3), (20, 2), (9, 4)])
def test_accumulated_gradients_are_those_of_the_whole_batch(
    many: int, accumulation: int, loop: str, tmp_path: Path
) -> None:
    """Micro-batches of 8, the last one smaller: their loss is the mean over the step's examples, not over batches."""
    method, own = Recorder(), examples(0, many)
    settings = {"optim": "sgd", "max_grad_norm": 0.0, "num_train_epochs": 1}
    train(loop, tmp_path, method, own, gradient_accumulation_steps=accumulation, **settings)
    order = list(EpochBatches(TrainingData.of(own), 8, 3))
    steps = [order[first : first + accumulation] for first in range(0, len(order), accumulation)]
    assert len(method.seen) == len(steps)
    model = network()
    for micro, seen, weights in zip(steps, method.seen, method.weights[::2], strict=True):
        model.load_state_dict(weights)
        model.zero_grad()
        batch = own.__getitems__([index for indices in micro for index in indices])
        nn.functional.cross_entropy(model(batch["pixel_values"]), batch["labels"]).backward()
        assert_close(seen, gradients_of(model), 1e-14)


@pytest.mark.parametrize("loop", LOOPS)
def test_label_smoothing_is_torchs(loop: str, tmp_path: Path) -> None:
    method = Recorder()
    train(loop, tmp_path, method, label_smoothing_factor=0.2, max_steps=1)
    model = network()
    batch = examples(0).__getitems__(next(iter(EpochBatches(TrainingData.of(examples(0)), 8, 3))))
    nn.functional.cross_entropy(model(batch["pixel_values"]), batch["labels"], label_smoothing=0.2).backward()
    assert_close(method.seen[0], gradients_of(model), 1e-14)


def test_label_smoothing_among_rivals_is_that_of_the_tasks_own_rows() -> None:
    logits = torch.randn(5, 6, dtype=torch.float64)
    labels, owners = torch.tensor([2, 3, 4, 3, 2]), torch.tensor([0, 0, 1, 1, 1, 2])
    loss = cross_entropy(mask_rivals(logits, labels, owners), labels, 0.3)
    own = nn.functional.cross_entropy(logits[:, 2:5], labels - 2, label_smoothing=0.3)
    torch.testing.assert_close(loss, own, rtol=1e-14, atol=0)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_rows_of_other_tasks_do_not_move(loop: str, smoothing: float, tmp_path: Path) -> None:
    learnt = learn(config("sequential"), loop, tmp_path, owners=torch.tensor([0, 0, 1, 1]),
                   label_smoothing_factor=smoothing)  # fmt: skip
    start, first, second = learnt.weights
    assert torch.equal(first["4.weight"][2:], start["4.weight"][2:])
    assert torch.equal(second["4.weight"][:2], first["4.weight"][:2])
    assert not torch.equal(first["4.weight"][:2], start["4.weight"][:2])
    assert not torch.equal(second["4.weight"][2:], first["4.weight"][2:])


@pytest.mark.parametrize("loop", LOOPS)
def test_a_fresh_boundary_is_a_new_optimizer_and_a_kept_one_goes_on(loop: str, tmp_path: Path) -> None:
    fresh = learn(config("sequential"), loop, tmp_path / "fresh")
    kept = learn(config("sequential"), loop, tmp_path / "kept", carry=True)
    assert not differ(fresh.weights[1], kept.weights[1])
    assert differ(fresh.weights[2], kept.weights[2])
    steps = {key: float(state) for key, state in kept.optimizer[1].items() if key.endswith("::step")}
    assert set(steps.values()) == {12.0}  # Adam counts on
    assert {float(state) for key, state in fresh.optimizer[1].items() if key.endswith("::step")} == {6.0}

    # One AdamW over both tasks, by hand: what the last step of the first task left is what the second begins with.
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.0)
    for index, task in enumerate(kept.tasks):
        batches = EpochBatches(TrainingData.of(examples(index)), 8, task.seed)
        for epoch in range(2):
            batches.set_epoch(epoch)
            for indices in batches:
                batch = examples(index).__getitems__(indices)
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(batch["pixel_values"]), batch["labels"]).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
    assert_close(kept.weights[2], copied(model))


def test_the_schedule_is_always_new(tmp_path: Path) -> None:
    for loop in LOOPS:
        learnt = learn(config("sequential"), loop, tmp_path / loop, carry=True, lr_scheduler_type="linear",
                       optim="sgd")  # fmt: skip
        assert differ(learnt.weights[2], learnt.weights[1])  # a carried-on schedule would stand at 0


def test_moments_survive_export_and_import_and_a_grown_head_is_padded_with_zeros() -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    model(examples(0).pixel_values).logsumexp(-1).sum().backward()
    optimizer.step()
    state = export_state(optimizer, model)
    assert set(state) == {f"{name}::{key}" for name, _ in model.named_parameters()
                          for key in ("step", "exp_avg", "exp_avg_sq")}  # fmt: skip

    wider = copy.deepcopy(model)
    grow_head(wider, "4", 7, torch.Generator())
    other = torch.optim.AdamW(wider.parameters())
    import_state(other, wider, state)
    for name, parameter in wider.named_parameters():
        for key in ("exp_avg", "exp_avg_sq"):
            moments, before = other.state[parameter][key], state[f"{name}::{key}"]
            assert moments.shape == parameter.shape
            assert torch.equal(moments[: len(before)], before)
            assert not moments[len(before) :].any()
            assert before.any()
        assert other.state[parameter]["step"] == 1
    wider(examples(0).pixel_values).sum().backward()
    other.step()  # the optimizer takes it


@pytest.mark.parametrize("loop", LOOPS)
def test_an_interrupted_task_goes_on_to_the_same_bits(loop: str, tmp_path: Path) -> None:
    def job(folder: str, **more: Any) -> Job:
        method = registry()["sequential"](config("sequential"))
        settings = {**SETTINGS, "lr_scheduler_type": "cosine", "warmup_steps": 2, "weight_decay": 0.1}
        torch.manual_seed(3)
        return Job(network(dropout=0.3), method, TrainingData.of(examples(0)), settings, 3, tmp_path / folder, **more)

    whole = job("whole")
    torch.manual_seed(9)
    dispatch.train(whole, loop)
    for stop_at in (1, 3, 5):
        broken, saved = job(f"broken-{stop_at}"), []
        broken.on_checkpoint = lambda step, folder, saved=saved: saved.append((step, folder))

        def look(step: int, total: int, broken: Job = broken, stop_at: int = stop_at) -> None:
            broken.stop.requested = step == stop_at

        broken.on_step = look
        torch.manual_seed(9)
        with pytest.raises(Interrupted):
            dispatch.train(broken, loop)
        ((step, folder),) = saved
        assert step == stop_at
        again = job("again", resume_from=folder)
        dispatch.train(again, loop)
        assert not differ(copied(again.model), copied(whole.model))


def test_a_training_that_stops_of_itself_is_no_finished_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == 2

    monkeypatch.setattr("stockpot.training.trainer._Hooks.on_step_end", stops)
    with pytest.raises(StockpotError, match="training stopped at step 2 of 6, although nothing stopped it"):
        learn(config("sfa"), "trainer", tmp_path)


@pytest.mark.parametrize("loop", LOOPS)
def test_training_that_diverges_is_an_error_that_names_the_tensor(loop: str, tmp_path: Path) -> None:
    model = train(loop, tmp_path, Recorder(), learning_rate=1.7e308, num_train_epochs=4)
    with pytest.raises(
        StockpotError, match=r"task 'second': training diverged: 1\.weight .*lower train\.learning_rate"
    ):
        check_finite(model, "second")
    check_finite(network(), "second")


def test_batches_that_are_all_dropped_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(StockpotError, match=r"dataloader_drop_last: 5 examples do not fill one batch of 8"):
        learn(config("sequential"), "plain", tmp_path, tasks=[examples(0, 5)], dataloader_drop_last=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_scheduler_type": "constnt"}, r"train\.lr_scheduler_type: 'constnt' is not one of its values\. "
         r"Did you mean 'constant'\?"),
        ({"optim": "zzzz"}, r"train\.optim: 'zzzz' is not one of its values\. Known: adamw"),
        ({"no_such_name": 1}, r"train: .*no_such_name"),
    ],
)  # fmt: skip
def test_a_value_that_training_arguments_refuse_is_one_line(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(StockpotError, match=message) as caught:
        training_arguments(settings, tmp_path, 0)
    assert "\n" not in str(caught.value)


def test_the_plain_loop_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(StockpotError, match=r"train\.neftune_noise_alpha: the plain loop does not support it"):
        learn(config("sequential"), "plain", tmp_path, neftune_noise_alpha=5)


def test_by_hand_is_the_plain_loop(tmp_path: Path) -> None:
    learnt = learn(config("sequential"), "plain", tmp_path, tasks=[examples(0)])
    assert_close(learnt.weights[1], by_hand(learnt.weights[0], learnt.data[0], learnt.tasks[0].seed), 1e-14)
