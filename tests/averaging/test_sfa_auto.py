"""`beta="auto"` against its equations, in float64: every limit in which the rule is something known."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from stockpot import SFA, StockpotError
from stockpot.averaging.auto_beta import DAMPING
from stockpot.averaging.past_importance import NOTHING, UNIFORM, PastImportance, past_importance
from stockpot.averaging.shares import kept_share

STEPS = 6


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def batches(seed: int, steps: int = STEPS) -> list[Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(8, 6, dtype=torch.float64, generator=draws) for _ in range(steps)]


class Trained:
    """A model after a task, with what the task's steps left: gradients, and weights just before and after averages."""

    def __init__(self, model: nn.Module, seed: int = 1, steps: int = STEPS, observe: bool = False, **settings: Any):
        self.model = model
        self.anchor = copied(model)
        self.gradients: list[dict[str, Tensor]] = []
        self.before: dict[int, dict[str, Tensor]] = {}
        self.after: dict[int, dict[str, Tensor]] = {}
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        adam = {"optimizer": optimizer} if settings.get("squares") == "adam" else {}
        self.sfa = SFA(model, total_steps=steps, **{"beta": "auto", **settings}, **adam)
        for step, x in enumerate(batches(seed, steps), start=1):
            loss = (model(x) - x[:, :3].sin()).pow(2).mean()
            loss.backward()
            self.gradients.append({name: tensor.grad.clone() for name, tensor in model.named_parameters()})  # type: ignore[union-attr]
            if observe:
                self.sfa.observe()
            optimizer.step()
            if observe:
                optimizer.zero_grad()
            self.before[step] = copied(model)
            if self.sfa.step():
                self.after[step] = copied(model)
            optimizer.zero_grad()
        self.optimizer = optimizer

    def v(self, steps: int = STEPS) -> dict[str, Tensor]:
        """The mean squared gradient over the first steps."""
        return {
            name: torch.stack([gradient[name].square() for gradient in self.gradients[:steps]]).mean(0)
            for name in self.gradients[0]
        }


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def mean(tensors: dict[str, Tensor]) -> float:
    return float(torch.cat([tensor.flatten() for tensor in tensors.values()]).mean())


def by_hand(
    trained: Trained, past: dict[str, Tensor], tasks: int, step: int, strength: float = 1.0
) -> dict[str, Tensor]:
    """θ_o + κ(θ − θ_o), with κ written out from the gradients of the first `step` steps."""
    v = trained.v(step)
    e = DAMPING / 2 * (mean(v) + mean(past) / tasks)
    result = {}
    for name, theta in trained.before[step].items():
        kept = (v[name] + e) / (v[name] + e + strength * (past[name] + tasks * e))
        result[name] = trained.anchor[name] + kept * (theta - trained.anchor[name])
    return result


def past_of(model: nn.Module, seed: int = 5, scale: float = 1e-3) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.rand(tensor.shape, dtype=torch.float64, generator=draws)
        for name, tensor in model.named_parameters()
    }


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-13) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=tolerance, atol=tolerance)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("strength", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("tasks", [1, 3])
def test_it_is_what_its_equation_says_at_half_time_and_at_the_end(strength: float, tasks: int) -> None:
    model = network()
    past = past_of(model)
    trained = Trained(model, importance=PastImportance(past, tasks), strength=strength)
    assert sorted(trained.after) == [STEPS // 2, STEPS]
    for step, weights in trained.after.items():
        assert_close(weights, by_hand(trained, past, tasks, step, strength))
    after = trained.sfa.importance()
    assert after.tasks == tasks + 1
    assert_close(dict(after.tensors), {name: past[name] + v for name, v in trained.v().items()})


def test_a_pretrained_model_counts_as_one_task_in_which_all_weights_mattered_alike() -> None:
    trained = Trained(network(), p=1)
    v = trained.v()
    alike = {name: torch.full_like(tensor, mean(v)) for name, tensor in v.items()}
    assert_close(trained.after[STEPS], by_hand(trained, alike, 1, STEPS))
    after = trained.sfa.importance()
    assert after.tasks == 2
    assert_close(dict(after.tensors), {name: alike[name] + tensor for name, tensor in v.items()})


def test_a_first_task_from_random_weights_is_only_observed() -> None:
    model = network()
    trained = Trained(model, importance="none", p=0.2)
    plain = Trained(network(), beta=0.0, p=1)
    assert trained.after == {}
    assert trained.sfa.averages == 0
    assert trained.sfa.anchor_bytes == 0
    assert_same(copied(model), copied(plain.model))
    assert_close(dict(trained.sfa.importance().tensors), trained.v())
    assert trained.sfa.importance().tasks == 1


def test_strength_0_is_plain_fine_tuning_bitwise() -> None:
    model = network()
    Trained(model, importance=PastImportance(past_of(model), 2), strength=0.0)
    assert_same(copied(model), copied(Trained(network(), beta=0.0, p=1).model))
    v = torch.rand(50, dtype=torch.float64)
    assert torch.equal(kept_share(v, torch.rand(50, dtype=torch.float64), 0.1, 0.0, 3), torch.ones_like(v))


def test_a_strength_beyond_bounds_leaves_the_anchor() -> None:
    model = network()
    trained = Trained(model, importance=PastImportance(past_of(model), 2), strength=1e6, p=1)
    assert_close(copied(model), trained.anchor, 1e-5)
    v, past = torch.rand(50, dtype=torch.float64), torch.rand(50, dtype=torch.float64)
    assert float(kept_share(v, past, 0.1, 1e300, 2).abs().max()) < 1e-290


def test_equal_tasks_are_fixed_sfa() -> None:
    """Ω = t·v: κ = 1/(1+λt), so β = λt/(1+λt), at λ = 1 the running mean of the tasks."""
    seen = Trained(network(), p=1, importance="none")
    for tasks, strength in ((1, 1.0), (2, 0.5), (3, 2.0)):
        past = PastImportance({name: tasks * v for name, v in seen.v().items()}, tasks)
        weighed = Trained(network(), p=1, importance=past, strength=strength)
        fixed = Trained(network(), p=1, beta=strength * tasks / (1 + strength * tasks))
        assert_close(copied(weighed.model), copied(fixed.model))


def test_proportional_importances_without_damping_are_wise_ft() -> None:
    v = torch.rand(100, dtype=torch.float64)
    for c in (0.1, 0.7, 5.0):
        kept = kept_share(c * v, v, 0.0, 1.0, 4)
        torch.testing.assert_close(kept, torch.full_like(v, c / (1 + c)), rtol=1e-14, atol=0)


def test_much_damping_is_the_running_mean_of_the_tasks() -> None:
    v, past = torch.rand(100, dtype=torch.float64), torch.rand(100, dtype=torch.float64)
    for tasks, strength in ((1, 1.0), (4, 1.0), (2, 0.3)):
        kept = kept_share(v, past, 1e13, strength, tasks)
        torch.testing.assert_close(kept, torch.full_like(v, 1 / (1 + strength * tasks)), rtol=1e-12, atol=0)


def test_weights_that_nothing_is_known_about() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    for damping in (0.0, 1e-9):
        torch.testing.assert_close(kept_share(zero, zero, damping, 2.0, 3), torch.full_like(zero, 1 / 7))
    mixed = kept_share(torch.tensor([0.0, 2.0, 0.0]), torch.tensor([0.0, 0.0, 2.0]), 0.0, 1.0, 1)
    assert mixed.tolist() == [0.5, 1.0, 0.0]


def test_it_does_not_depend_on_the_unit_of_the_loss() -> None:
    """All importances × 1e-9, and the damping with them: the same model."""
    v, past = torch.rand(100, dtype=torch.float64), torch.rand(100, dtype=torch.float64)
    kept = kept_share(v, past, 0.05, 1.0, 2)
    torch.testing.assert_close(kept_share(v * 1e-9, past * 1e-9, 0.05e-9, 1.0, 2), kept, rtol=1e-13, atol=0)


def test_it_is_the_stationary_point_of_the_quadratic() -> None:
    draws = torch.Generator().manual_seed(3)
    v, past, theta, anchor = torch.rand(4, 200, dtype=torch.float64, generator=draws)
    for strength, tasks, e in ((1.0, 1, 0.1), (0.3, 4, 0.0), (7.0, 2, 0.02)):
        x = anchor + kept_share(v, past, e, strength, tasks) * (theta - anchor)
        slope = (v + e) * (x - theta) + strength * (past + tasks * e) * (x - anchor)
        assert float(slope.abs().max()) < 1e-14


_importances = st.floats(min_value=0, max_value=1e30)


@given(_importances, _importances, st.floats(0, 1e10), st.floats(0, 1e6), st.integers(1, 1000), st.integers(1, 10**6))
def test_weights_never_leave_the_way_between_anchor_and_weights(
    v: float, past: float, damping: float, strength: float, tasks: int, n: int
) -> None:
    kept = float(kept_share(torch.tensor([v * n]).double(), torch.tensor([past]).double(), damping, strength, tasks, n))
    assert 0 <= kept <= 1


def test_sums_over_steps_weigh_as_their_mean() -> None:
    v, past = torch.rand(100, dtype=torch.float64), torch.rand(100, dtype=torch.float64)
    torch.testing.assert_close(kept_share(7 * v, past, 0.1, 2.0, 3, 7.0), kept_share(v, past, 0.1, 2.0, 3))


def test_observing_before_the_step_is_the_same_as_stepping_before_zero_grad() -> None:
    past = PastImportance(past_of(network()), 1)
    one, other = (Trained(network(), importance=past, observe=observe) for observe in (False, True))
    assert_same(copied(one.model), copied(other.model))


def test_adams_second_moments_serve() -> None:
    model = network()
    past = past_of(model)
    trained = Trained(model, importance=PastImportance(past, 1), squares="adam", p=1)
    moments = {
        name: trained.optimizer.state[tensor]["exp_avg_sq"] / (1 - 0.999**STEPS)
        for name, tensor in model.named_parameters()
    }
    weighted = torch.tensor([0.999 ** (STEPS - step) for step in range(1, STEPS + 1)], dtype=torch.float64)
    for name, moment in moments.items():  # what a moment is: a mean that forgets slowly
        squares = torch.stack([gradient[name].square() for gradient in trained.gradients])
        torch.testing.assert_close(moment, torch.tensordot(weighted / weighted.sum(), squares, 1))
    e = DAMPING / 2 * (mean(moments) + mean(past))
    for name, theta in trained.before[STEPS].items():
        kept = (moments[name] + e) / (moments[name] + e + past[name] + e)
        torch.testing.assert_close(
            trained.after[STEPS][name], trained.anchor[name] + kept * (theta - trained.anchor[name])
        )
    assert trained.sfa.observed() == {}
    assert_close(dict(trained.sfa.importance().tensors), {name: past[name] + moments[name] for name in past})


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.RMSprop])
def test_optimizers_without_second_moments_are_refused_with_adam(optimizer: Any) -> None:
    model = network()
    steps = optimizer(model.parameters(), lr=0.01)
    sfa = SFA(model, beta="auto", total_steps=1, squares="adam", optimizer=steps)
    model(batches(1)[0]).sum().backward()
    steps.step()
    with pytest.raises(StockpotError, match="squares='observed'"):
        sfa.step()
    with pytest.raises(StockpotError, match=r"needs optimizer="):
        SFA(model, beta="auto", total_steps=1, squares="adam")


@pytest.mark.parametrize("stop", range(1, STEPS))
def test_a_resumed_task_is_the_unbroken_one_bit_for_bit(stop: int, tmp_path: Path) -> None:
    past = PastImportance(past_of(network()), 2)
    whole = Trained(network(), importance=past)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sfa = SFA(model, beta="auto", total_steps=STEPS, importance=past)
    for step, x in enumerate(batches(1), start=1):
        (model(x) - x[:, :3].sin()).pow(2).mean().backward()
        optimizer.step()
        sfa.step()
        optimizer.zero_grad()
        if step == stop:
            torch.save([model.state_dict(), optimizer.state_dict(), sfa.state_dict()], tmp_path / "state.pt")
            weights, moments, state = torch.load(tmp_path / "state.pt", weights_only=True)
            model = network(seed=9)
            model.load_state_dict(weights)
            optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
            optimizer.load_state_dict(moments)
            sfa = SFA(model, beta="auto", total_steps=STEPS, importance=past)
            sfa.load_state_dict(state)
    assert_same(copied(model), copied(whole.model))
    assert_same(dict(sfa.importance().tensors), dict(whole.sfa.importance().tensors))


def test_the_importance_survives_on_disk_and_is_mapped(tmp_path: Path) -> None:
    trained = Trained(network(), importance="none")
    trained.sfa.save_importance(tmp_path / "task1")
    assert sorted(file.name for file in (tmp_path / "task1").iterdir()) == ["importance.json", "importance.safetensors"]
    loaded = past_importance(tmp_path / "task1")
    assert loaded.tasks == 1
    assert_same(dict(loaded.tensors), dict(trained.sfa.importance().tensors))
    one = Trained(copy.deepcopy(trained.model), seed=2, importance=tmp_path / "task1")
    other = Trained(copy.deepcopy(trained.model), seed=2, importance=trained.sfa.importance())
    assert_same(copied(one.model), copied(other.model))


def test_words_and_files_of_importance(tmp_path: Path) -> None:
    assert past_importance("uniform") is UNIFORM
    assert past_importance("none") is NOTHING
    with pytest.raises(StockpotError, match=r"unifrm does not exist. Did you mean 'uniform'\?"):
        past_importance("unifrm")
    PastImportance({"a": torch.tensor([1.0, -1.0])}, 1).save(tmp_path)
    with pytest.raises(StockpotError, match="'a' holds values that are not finite numbers ≥ 0"):
        past_importance(tmp_path)
    (tmp_path / "importance.json").write_text('{"variant": "exact"}')
    with pytest.raises(StockpotError, match="does not describe the importance"):
        past_importance(tmp_path)
    (tmp_path / "importance.json").unlink()
    with pytest.raises(StockpotError, match=r"does not say what importance\.safetensors holds"):
        past_importance(tmp_path)


def test_gradients_that_are_gone_and_steps_observed_twice_are_errors() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sfa = SFA(model, beta="auto", total_steps=3)
    model(batches(1)[0]).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    with pytest.raises(StockpotError, match=r"call sfa.step\(\) before optimizer.zero_grad\(\)"):
        sfa.step()
    model(batches(1)[0]).sum().backward()
    sfa.observe()
    with pytest.raises(StockpotError, match="observe\\(\\) was called twice"):
        sfa.observe()


def test_gradients_that_are_not_finite_are_an_error_at_the_average() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sfa = SFA(model, beta="auto", total_steps=1)
    (model(batches(1)[0]).sum() * float("inf")).backward()
    model[0].weight.grad.nan_to_num_(posinf=float("inf"))  # type: ignore[union-attr]
    optimizer.step()
    with pytest.raises(StockpotError, match="gradients were not finite"):
        sfa.step()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": "atuo"}, "must lie in"),
        ({"beta": 0.3, "strength": 2.0, "p": 1}, "belong to beta='auto'"),
        ({"beta": "auto", "strength": -1.0}, "strength must lie in"),
        ({"beta": "auto", "strength": float("nan")}, "strength must lie in"),
        ({"beta": "auto", "squares": "both"}, "squares must be one of"),
    ],
    ids=str,
)
def test_settings_that_no_training_could_use(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StockpotError, match=message):
        SFA(network(), total_steps=3, **settings)


def test_the_importance_of_another_model_is_refused() -> None:
    other = PastImportance({"2.wieght": torch.ones(3, 5)}, 1)
    with pytest.raises(StockpotError, match=r"belongs to another model.*Did you mean"):
        Trained(network(), importance=PastImportance({"0.wieght": torch.ones(3, 5)}, 1))
    with pytest.raises(StockpotError, match="belongs to another model"):
        Trained(network(), importance=other)
    with pytest.raises(StockpotError, match=r"'0.weight' has shape \(5, 7\) there, \(5, 6\) here"):
        Trained(network(), importance=PastImportance({"0.weight": torch.ones(5, 7)}, 1))
