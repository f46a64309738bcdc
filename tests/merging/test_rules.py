"""Every rule against its equation, written out in float64, and the identities of the literature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import stockpot
from stockpot import StockpotError
from stockpot.merging.rules import RULES
from stockpot.merging.rules.random_masks import chance, keep, mask_key

SHAPES = {"a": (5, 7), "b": (11,), "c": (2, 3, 4), "d": ()}
VECTOR_RULES = ["task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "magmax"]


def state(seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
        for name, shape in SHAPES.items()
    }


def tuned(base: dict[str, Tensor], seed: int, scale: float = 0.1) -> dict[str, Tensor]:
    change = state(seed, scale)
    return {name: (tensor.double() + change[name]).to(tensor.dtype) for name, tensor in base.items()}


def merged(rule: str, models: Sequence[Any], base: Any = None, **parameters: Any) -> dict[str, Tensor]:
    result = stockpot.merge(rule, models, base, **parameters)
    assert isinstance(result, dict)
    return result


def close(result: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-14) -> None:
    assert list(result) == list(expected)
    for name, value in expected.items():
        assert result[name].shape == value.shape
        torch.testing.assert_close(result[name], value, rtol=tolerance, atol=tolerance)


def same(result: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(result) == list(expected)
    for name, value in expected.items():
        assert result[name].dtype == value.dtype
        assert torch.equal(result[name], value), name


def by_tensor(function: Callable[..., Tensor], *states: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: function(*(each[name] for each in states)) for name in states[0]}


BASE, A, B, C = state(0), tuned(state(0), 1), tuned(state(0), 2), tuned(state(0), 3)


# --- averages -----------------------------------------------------------------------------------------------------


def test_linear_is_the_weighted_mean() -> None:
    close(merged("linear", [A, B, C]), by_tensor(lambda *x: sum(x) / 3, A, B, C))
    result = merged("linear", [A, B], weight=[3.0, 1.0])
    close(result, by_tensor(lambda a, b: 0.75 * a + 0.25 * b, A, B))
    raw = merged("linear", [A, B], weight=[3.0, 1.0], normalize=False)
    close(raw, by_tensor(lambda a, b: 3 * a + b, A, B))


def test_the_soup_of_one_model_is_the_model() -> None:
    same(merged("linear", [A]), A)
    same(merged("linear", [A, A]), A)
    half = state(4, dtype=torch.bfloat16)
    same(merged("linear", [half, half]), half)


def test_wise_ft_has_its_ends_bit_for_bit() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        base, model = state(0, dtype=dtype), state(1, dtype=dtype)
        same(merged("wise_ft", [model], base, alpha=0.0), base)
        same(merged("wise_ft", [model], base, alpha=1.0), model)


@given(beta=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_wise_ft_task_arithmetic_and_linear_say_the_same(beta: float) -> None:
    expected = by_tensor(lambda base, a: (1 - beta) * a + beta * base, BASE, A)
    close(merged("wise_ft", [A], BASE, alpha=1 - beta), expected)
    close(merged("task_arithmetic", [A], BASE, lambda_=1 - beta), expected)
    close(merged("linear", [A, BASE], weight=[1 - beta, beta]), expected)


def test_wise_ft_of_models_is_wise_ft_of_outputs_where_the_model_is_linear() -> None:
    x = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    result = merged("wise_ft", [A], BASE, alpha=0.3)
    torch.testing.assert_close(result["a"] @ x, 0.7 * (BASE["a"] @ x) + 0.3 * (A["a"] @ x), rtol=1e-14, atol=1e-14)


# --- spheres ------------------------------------------------------------------------------------------------------


def on_the_sphere(a: Tensor, b: Tensor, t: float, threshold: float = 0.9995) -> Tensor:
    cosine = float((a * b).sum() / a.norm() / b.norm()) if a.numel() else 1.0
    if abs(cosine) > threshold:
        return (1 - t) * a + t * b
    omega = math.acos(max(-1.0, min(1.0, cosine)))
    return (math.sin((1 - t) * omega) * a + math.sin(t * omega) * b) / math.sin(omega)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_slerp_goes_round_the_sphere_or_along_the_line(t: float) -> None:
    far = state(5)
    for other in (A, far, {name: -tensor for name, tensor in BASE.items()}):
        close(merged("slerp", [BASE, other], t=t), by_tensor(lambda a, b: on_the_sphere(a, b, t), BASE, other), 1e-12)


def test_slerp_keeps_the_norm_of_unit_vectors() -> None:
    one = {"v": torch.tensor([1.0, 0.0], dtype=torch.float64)}
    two = {"v": torch.tensor([0.0, 1.0], dtype=torch.float64)}
    result = merged("slerp", [one, two], t=1 / 3)["v"]
    close({"v": result}, {"v": torch.tensor([math.cos(math.pi / 6), 0.5], dtype=torch.float64)})


def test_slerp_of_a_zero_takes_its_norm_for_one() -> None:
    zero = {name: torch.zeros_like(tensor) for name, tensor in BASE.items()}
    close(merged("slerp", [zero, A], t=0.25), by_tensor(lambda a: math.sin(0.25 * math.pi / 2) * a, A), 1e-12)


def test_nuslerp_weighs_and_takes_rows_columns_and_vectors() -> None:
    far = state(5)
    t = 3 / 4

    def rows(a: Tensor, b: Tensor) -> Tensor:
        if a.dim() < 2:
            return on_the_sphere(a, b, t, 1.0)
        pairs = zip(a.reshape(-1, a.shape[-1]), b.reshape(-1, a.shape[-1]), strict=True)
        return torch.stack([on_the_sphere(x, y, t, 1.0) for x, y in pairs]).reshape(a.shape)

    def columns(a: Tensor, b: Tensor) -> Tensor:
        if a.dim() < 2:
            return on_the_sphere(a, b, t, 1.0)
        first, second = a.reshape(a.shape[0], -1), b.reshape(a.shape[0], -1)
        pairs = zip(first.T, second.T, strict=True)
        return torch.stack([on_the_sphere(x, y, t, 1.0) for x, y in pairs]).T.reshape(a.shape)

    del far["d"]
    base = {name: tensor for name, tensor in BASE.items() if name != "d"}
    weight = [1.0, 3.0]
    close(
        merged("nuslerp", [base, far], weight=weight),
        by_tensor(lambda a, b: on_the_sphere(a, b, t, 1.0), base, far), 1e-12,
    )  # fmt: skip
    close(merged("nuslerp", [base, far], weight=weight, flatten=False), by_tensor(rows, base, far), 1e-12)
    result = merged("nuslerp", [base, far], weight=weight, flatten=False, row_wise=True)
    close(result, by_tensor(columns, base, far), 1e-12)
    first, second = ({name: tensor for name, tensor in model.items() if name != "d"} for model in (A, B))
    over = merged("nuslerp", [first, second], base, weight=weight)
    close(over, by_tensor(lambda o, a, b: o + on_the_sphere(a - o, b - o, t, 1.0), base, first, second), 1e-12)


# --- task vectors -------------------------------------------------------------------------------------------------


def test_task_arithmetic_adds_and_negates() -> None:
    result = merged("task_arithmetic", [A, B], BASE, weight=[1.0, -0.5], lambda_=0.4)
    close(result, by_tensor(lambda o, a, b: o + 0.4 * ((a - o) - 0.5 * (b - o)), BASE, A, B))
    close(result, merged("task_arithmetic", [B, A], BASE, weight=[-0.5, 1.0], lambda_=0.4))


@pytest.mark.parametrize("rule", VECTOR_RULES)
def test_lambda_zero_is_the_base_bit_for_bit(rule: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        base = state(0, dtype=dtype) | {"a": torch.full((5, 7), -0.0, dtype=dtype)}
        result = merged(rule, [tuned(base, 1), tuned(base, 2)], base, lambda_=0.0)
        same(result, base)
        assert torch.signbit(result["a"]).all()


@pytest.mark.parametrize("rule", ["task_arithmetic", "magmax", "ties", "breadcrumbs", "dare_linear", "dare_ties"])
def test_one_whole_vector_is_the_model(rule: str) -> None:
    parameters: dict[str, Any] = {} if rule in ("task_arithmetic", "magmax") else {"density": 1.0}
    close(merged(rule, [A], BASE, **parameters), A)


def test_every_vector_rule_changes_the_base() -> None:
    for rule in VECTOR_RULES:
        result = merged(rule, [A, B], BASE)
        assert any(not torch.equal(result[name], BASE[name]) for name in BASE), rule


GOLDEN = [(1, -0.2, 0.5, 0, -3), (-0.4, -0.6, 0.7, 0.1, 1), (0.3, 0.9, -0.9, 0, 2.5)]


def golden() -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    base = {"w": torch.zeros(5, dtype=torch.float64)}
    return [{"w": torch.tensor(row, dtype=torch.float64)} for row in GOLDEN], base


def test_ties_on_the_worked_example() -> None:
    models, base = golden()
    result = merged("ties", models, base, density=0.6)
    close(result, {"w": torch.tensor([1, 0.9, 0.6, 0, 1.75], dtype=torch.float64)})
    assert torch.equal(result["w"], merged("ties", models[::-1], base, density=0.6)["w"])


def test_ties_of_copies_is_the_trimmed_vector() -> None:
    models, base = golden()
    once = merged("ties", [models[0]], base, density=0.4)
    close(once, {"w": torch.tensor([1, 0, 0, 0, -3], dtype=torch.float64)})
    close(merged("ties", [models[0]] * 4, base, density=0.4), once)


def test_a_draw_of_signs_merges_nothing() -> None:
    base = {"w": torch.zeros(2, dtype=torch.float64)}
    models = [
        {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)},
        {"w": torch.tensor([-1.0, 1.0], dtype=torch.float64)},
    ]
    close(merged("ties", models, base, density=1.0), {"w": torch.tensor([0, 1.5], dtype=torch.float64)})


def trimmed(vectors: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """The k largest of all tensors together, the first of equals; by a stable sort."""
    flat = torch.cat([vector.reshape(-1) for vector in vectors.values()])
    kept = torch.zeros_like(flat)
    order = torch.sort(flat.abs(), descending=True, stable=True).indices[:k]
    kept[order] = flat[order]
    parts = kept.split([vector.numel() for vector in vectors.values()])
    return {name: part.reshape(vectors[name].shape) for name, part in zip(vectors, parts, strict=True)}


def elected(vectors: Sequence[Tensor], weights: Sequence[float], normalize: bool = True) -> Tensor:
    scaled = torch.stack([w * v for w, v in zip(weights, vectors, strict=True)])
    sign = scaled.sum(0).sign()
    agree = (scaled.sign() == sign) & (sign != 0)
    total = (scaled * agree).sum(0)
    if not normalize:
        return total
    share = sum(w * agree[i].double() for i, w in enumerate(weights))
    assert isinstance(share, Tensor)
    return torch.where(share == 0, torch.zeros_like(total), total / torch.where(share == 0, 1, share))


@pytest.mark.parametrize("trim", ["model", "tensor"])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, 0.2, 0.3], [1.0, -0.5, 0.25]])
@pytest.mark.parametrize("normalize", [True, False])
def test_ties_against_its_definition(trim: str, weights: list[float], normalize: bool) -> None:
    densities = [0.2, 0.5, 1.0]
    vectors = [by_tensor(lambda m, o: m - o, model, BASE) for model in (A, B, C)]
    total = sum(tensor.numel() for tensor in BASE.values())
    if trim == "model":
        kept = [trimmed(v, max(1, int(d * total))) for v, d in zip(vectors, densities, strict=True)]
    else:
        kept = [
            {name: trimmed({name: x}, max(1, int(d * x.numel())))[name] for name, x in v.items()}
            for v, d in zip(vectors, densities, strict=True)
        ]
    expected = {name: BASE[name] + 0.7 * elected([v[name] for v in kept], weights, normalize) for name in BASE}
    result = merged(
        "ties", [A, B, C], BASE, trim=trim, density=densities, weight=weights, normalize=normalize, lambda_=0.7
    )
    close(result, expected, 1e-13)


@pytest.mark.parametrize("trim", ["model", "tensor"])
@pytest.mark.parametrize(("density", "gamma"), [(0.9, 0.05), (0.3, 0.1), (0.95, 0.5), (1.0, 0.1)])
def test_breadcrumbs_against_its_definition(trim: str, density: float, gamma: float) -> None:
    def kept(vectors: dict[str, Tensor]) -> dict[str, Tensor]:
        count = sum(v.numel() for v in vectors.values())
        if density == 1:
            return vectors
        target = int(density * count)
        smallest = max(0, count - target - int(gamma * count))
        inner, outer = trimmed(vectors, count - smallest), trimmed(vectors, count - smallest - target)
        return {name: inner[name] - outer[name] for name in vectors}

    vectors = [by_tensor(lambda m, o: m - o, model, BASE) for model in (A, B)]
    if trim == "tensor":
        dropped = [{name: kept({name: x})[name] for name, x in v.items()} for v in vectors]
    else:
        dropped = [kept(v) for v in vectors]
    result = merged("breadcrumbs", [A, B], BASE, trim=trim, density=density, gamma=gamma, weight=[1.0, 0.5])
    close(result, by_tensor(lambda o, a, b: o + a + 0.5 * b, BASE, *dropped), 1e-13)
    result = merged("breadcrumbs_ties", [A, B], BASE, trim=trim, density=density, gamma=gamma)
    expected = {name: BASE[name] + elected([v[name] for v in dropped], [1.0, 1.0]) for name in BASE}
    close(result, expected, 1e-13)


def test_magmax_takes_the_largest_change_whatever_the_order() -> None:
    vectors = [by_tensor(lambda m, o: m - o, model, BASE) for model in (A, B, C)]

    def largest(o: Tensor, *changes: Tensor) -> Tensor:
        stacked = torch.stack(changes)
        return o + 0.5 * stacked.gather(0, stacked.abs().argmax(0, keepdim=True))[0]

    close(merged("magmax", [A, B, C], BASE, lambda_=0.5), by_tensor(largest, BASE, *vectors))
    base = {"w": torch.zeros(1)}
    plus, minus = {"w": torch.ones(1)}, {"w": -torch.ones(1)}
    same(merged("magmax", [plus, minus], base), merged("magmax", [minus, plus], base))


# --- at random ----------------------------------------------------------------------------------------------------


def mask(seed: int, model: int, name: str, like: Tensor, density: float | Tensor) -> Tensor:
    return keep(mask_key(seed, model, name), 0, like.reshape(-1), density).reshape(like.shape)


@pytest.mark.parametrize("rescale", [True, False])
def test_dare_against_its_definition(rescale: bool) -> None:
    densities, weights = [0.3, 0.8], [1.0, 0.5]
    dropped = []
    for number, (model, density) in enumerate(zip((A, B), densities, strict=True)):
        factor = 1 / chance(density) if rescale else 1.0
        dropped.append({
            name: mask(7, number, name, BASE[name], density) * (model[name] - BASE[name]) * factor for name in BASE
        })  # fmt: skip
    parameters: dict[str, Any] = {"density": densities, "weight": weights, "rescale": rescale, "seed": 7}
    result = merged("dare_linear", [A, B], BASE, **parameters)
    close(result, by_tensor(lambda o, a, b: o + a + 0.5 * b, BASE, *dropped), 1e-13)
    result = merged("dare_ties", [A, B], BASE, **parameters)
    close(result, {name: BASE[name] + elected([v[name] for v in dropped], weights) for name in BASE}, 1e-13)


def test_dare_is_task_arithmetic_on_average() -> None:
    base, model = {"w": torch.zeros(40_000)}, {"w": torch.ones(40_000)}
    result = merged("dare_linear", [model], base, density=0.1)["w"]
    assert result.unique().tolist() == pytest.approx([0.0, 1 / chance(0.1)])
    assert abs(float(result.mean()) - 1) < 4 * math.sqrt(0.9 / 0.1 / 40_000)


def test_della_against_its_definition() -> None:
    density, epsilon = 0.6, 0.2
    dropped = []
    for number, model in enumerate((A, B)):
        vectors = {}
        for name, base in BASE.items():
            vector = model[name] - base
            rows = vector.reshape(1, -1) if vector.dim() < 2 else vector.reshape(-1, vector.shape[-1])
            ranks = rows.abs().argsort(1).argsort(1).double()
            last = max(1, rows.shape[1] - 1)
            chances = (
                density - epsilon + 2 * epsilon * ranks / last if rows.shape[1] > 1 else torch.full_like(rows, density)
            )
            chances = torch.round(chances * 65536) / 65536 if rows.shape[1] > 1 else chances
            drawn = mask(0, number, name, vector, chances.reshape(-1))
            vectors[name] = drawn * vector / chances.reshape(vector.shape)
        dropped.append(vectors)
    parameters = {"density": density, "epsilon": epsilon}
    result = merged("della_linear", [A, B], BASE, **parameters)
    close(result, by_tensor(lambda o, a, b: o + a + b, BASE, *dropped), 1e-13)
    result = merged("della", [A, B], BASE, **parameters)
    close(result, {name: BASE[name] + elected([v[name] for v in dropped], [1.0, 1.0]) for name in BASE}, 1e-13)


def test_della_keeps_the_large_ones_more_often() -> None:
    base, model = {"w": torch.zeros(500, 64)}, {"w": torch.arange(1.0, 65.0).expand(500, 64).contiguous()}
    kept = (merged("della_linear", [model], base, density=0.5, epsilon=0.4)["w"] != 0).double().mean(0)
    expected = torch.linspace(0.1, 0.9, 64, dtype=torch.float64)
    assert float((kept - expected).abs().max()) < 5 * math.sqrt(0.25 / 500)


@given(
    start=st.integers(0, 300),
    count=st.integers(1, 200),
    density=st.floats(0.001, 1) | st.sampled_from([0.5, 0.25, 1.0]),
)
@settings(max_examples=50, deadline=None)
def test_a_mask_is_the_same_in_whatever_pieces_it_is_drawn(start: int, count: int, density: float) -> None:
    whole = keep(42, 0, torch.empty(500), density)
    assert torch.equal(keep(42, start, torch.empty(count), density), whole[start : start + count])


@pytest.mark.parametrize("density", [0.3, 0.25])
def test_masks_are_fair_and_differ_by_seed_model_and_name(density: float) -> None:
    count, square = 200_000, density**2
    keys = ((0, 0, "w"), (1, 0, "w"), (0, 1, "w"), (0, 0, "v"))
    drawn = [keep(mask_key(*key), 0, torch.empty(count), density) for key in keys]
    for one in drawn:
        assert abs(float(one.mean()) - density) < 5 * math.sqrt(density * (1 - density) / count)
        # An element is independent of its neighbours, and of the one that shares its random word.
        for lag in (1, 2, 4, 16):
            together = float((one[:-lag] * one[lag:]).mean())
            assert abs(together - square) < 5 * math.sqrt(square / count)
    for i in range(4):
        for j in range(i):
            assert abs(float((drawn[i] * drawn[j]).mean()) - square) < 5 * math.sqrt(square / count)


# --- angles and certainty -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("filter_wise", [False, True])
def test_model_stock_against_its_definition(filter_wise: bool) -> None:
    def stock(o: Tensor, *models: Tensor) -> Tensor:
        shape = o.shape
        fold = (-1, shape[-1]) if filter_wise and o.dim() > 1 else (1, -1)
        vectors = [(model - o).reshape(fold) for model in models]
        cosines = [
            (vectors[i] * vectors[j]).sum(1) / vectors[i].norm(dim=1) / vectors[j].norm(dim=1)
            for i in range(len(vectors))
            for j in range(i)
        ]
        cosine = torch.stack(cosines).mean(0)[:, None]
        count = len(models)
        t = count * cosine / (1 + (count - 1) * cosine)
        return (t * sum(model.reshape(fold) for model in models) / count + (1 - t) * o.reshape(fold)).reshape(shape)

    states = [{name: tensor for name, tensor in s.items() if name != "d"} for s in (BASE, A, B, C)]
    result = merged("model_stock", states[1:], states[0], filter_wise=filter_wise)
    close(result, by_tensor(stock, *states), 1e-11)


def test_model_stock_of_copies_is_the_model_and_of_right_angles_the_base() -> None:
    close(merged("model_stock", [A, A], BASE), A)
    base = {"w": torch.zeros(2, dtype=torch.float64)}
    models = [{"w": torch.tensor(v, dtype=torch.float64)} for v in ((1.0, 0.0), (0.0, 1.0))]
    close(merged("model_stock", models, base), base)
    opposite = [{"w": torch.tensor(v, dtype=torch.float64)} for v in ((1.0, 0.0), (-1.0, 0.0))]
    close(merged("model_stock", opposite, base), base)


def test_the_contract_is_checked_before_anything_else() -> None:
    def refusal(*arguments: Any, **parameters: Any) -> str:
        with pytest.raises(StockpotError) as caught:
            merged(*arguments, **parameters)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "Did you mean 'linear'?" in refusal("lineer", [A])
    assert "--base MODEL" in refusal("ties", [A])
    assert "slerp merges 2 models, not 3" in refusal("slerp", [A, B, C])
    assert "wise_ft merges 1 model, not 2" in refusal("wise_ft", [A, B], BASE)
    assert "model_stock merges 2 or more models, not 1" in refusal("model_stock", [A], BASE)
    assert "Did you mean 'density'?" in refusal("ties", [A], BASE, densitty=0.2)
    assert "density must be above 0 and at most 1, not 0" in refusal("ties", [A], BASE, density=0.0)
    assert "alpha must be at least 0 and at most 1, not 1.5" in refusal("wise_ft", [A], BASE, alpha=1.5)
    assert "normalize must be true or false, not 1" in refusal("linear", [A], normalize=1)
    assert "weight must be a finite number, not True" in refusal("linear", [A], weight=True)
    assert "weight must be a finite number, not nan" in refusal("linear", [A], weight=math.nan)
    assert "weight has 3 values for 2 models" in refusal("linear", [A, B], weight=[1, 2, 3])
    assert "sum to zero" in refusal("linear", [A, B], weight=[1.0, -1.0])
    assert "density 0.9 ± epsilon 0.2" in refusal("della", [A, B], BASE, density=0.9, epsilon=0.2)
    assert "t applies to the whole merge" in refusal("slerp", [A, B], t=[0.1, 0.2])


def test_every_rule_says_what_it_does_and_where_it_is_from() -> None:
    for rule in RULES.values():
        assert rule.doc.splitlines()[0].rstrip().endswith((".", "),", ")")) or ":" in rule.doc
        assert len({parameter.name for parameter in rule.parameters}) == len(rule.parameters)
        for parameter in rule.parameters:
            assert parameter.help
