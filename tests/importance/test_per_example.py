"""Every kind of use of a parameter against a loop over the examples, in float64; and nothing of the model changes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from brute import (
    CLASSES,
    ChannelsFirst,
    Convolutions,
    Experts,
    Functional,
    Hidden,
    Language,
    OneRow,
    Refused,
    Tied,
    Tokens,
    TokensFirst,
    Twice,
    by_loop,
    clouds,
    sentences,
    settled,
    tiny_bert,
    tiny_gpt2,
    tiny_vit,
)
from hypothesis import given
from hypothesis import strategies as st
from tiers import crossed
from torch import Tensor, nn

from stockpot.batches.examples import TensorExamples
from stockpot.batches.outputs import logits_of
from stockpot.importance import per_example
from stockpot.importance.fisher import fisher
from stockpot.importance.sensitivity import sensitivity
from stockpot.streams.scenario import mask_rivals

Weights = dict[str, Tensor]
Build = Callable[[], tuple[nn.Module, TensorExamples]]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), nn.ReLU(inplace=True), nn.Linear(5, CLASSES))


def frozen() -> nn.Module:
    model = mlp()
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return model


# Name → model and examples, and how many of its parameters no layer accounts for (vmap, one at a time).
MODELS: dict[str, tuple[Build, int, int]] = {
    "mlp": (lambda: (mlp(), clouds(6)), 0, 0),
    "partly frozen": (lambda: (frozen(), clouds(6)), 0, 0),
    "a layer twice": (lambda: (Twice(), clouds(6)), 0, 0),
    "tied layers": (lambda: (Tied(), clouds(6)), 0, 0),
    "tokens": (lambda: (Tokens(), clouds(3, 3)), 0, 0),
    "tokens and examples in one dimension": (lambda: (Tokens(flat=True), clouds(3, 3)), 0, 0),
    "as many tokens as examples, tokens first": (lambda: (TokensFirst(), clouds(7, 3)), 2, 0),
    "three tokens, tokens first": (lambda: (TokensFirst(), clouds(3, 3)), 2, 0),
    "convolutions": (lambda: (Convolutions(), clouds(2, 9, 8)), 2, 0),
    "a subclass with a forward of its own": (
        lambda: (nn.Sequential(nn.Conv2d(2, 5, 3), ChannelsFirst(5), nn.Flatten(), nn.Linear(20, 4)), clouds(2, 4, 4)),
        2,
        0,
    ),
    "language model": (lambda: (Language(), sentences(7, rows=7)), 0, 0),
    "positions of one row": (lambda: (OneRow(), sentences(7, rows=7)), 1, 0),
    "embedding with padding": (lambda: (Language(padding=2, tied=False), sentences(7, rows=7)), 0, 0),
    "used functionally": (lambda: (Functional(), clouds(6)), 2, 0),
    "refused by vmap": (lambda: (Refused(), clouds(6)), 0, 1),
    "out of functional_call's reach": (lambda: (Hidden(), clouds(6)), 0, 1),
    "experts": (lambda: (Experts(), clouds(6)), 0, 4),
    "vit": (lambda: (tiny_vit(), clouds(3, 8, 8)), 2, 0),
    "gpt2": (lambda: (tiny_gpt2(), sentences(9)), 0, 0),
    "bert": (lambda: (tiny_bert(), sentences(9)), 0, 0),
}


def assert_close(found: Weights, expected: Weights, tolerance: float = 1e-10) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(tensor.max()) for tensor in expected.values())
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and not found[name].requires_grad
        torch.testing.assert_close(
            found[name], tensor, rtol=tolerance, atol=tolerance * largest, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(("name", "batch_size"), crossed(MODELS, [3, 7]))
def test_every_use_of_a_parameter_is_counted_as_in_a_loop_over_the_examples(name: str, batch_size: int) -> None:
    torch.manual_seed(3)
    model, examples = MODELS[name][0]()
    model = settled(model)
    for kind in ("exact", "empirical"):
        found = fisher(model, examples, kind, logits=logits_of, batch_size=batch_size)
        assert_close(found, by_loop(model, examples, kind))
    found = sensitivity(model, examples, logits=logits_of, batch_size=batch_size)
    assert_close(found, by_loop(model, examples, "sensitivity"))
    assert any(float(tensor.max()) > 1e-6 for tensor in found.values())


@pytest.mark.parametrize("name", MODELS)
def test_only_what_no_layer_accounts_for_takes_a_slower_way(name: str) -> None:
    torch.manual_seed(3)
    model, examples = MODELS[name][0]()
    model = settled(model).eval()
    walk = per_example._Walk(model, logits_of, 2)
    batch = examples.__getitems__([0, 3, 6])
    walk.choose(batch)
    reached = walk._counts(logits_of(model, batch)).keys()
    assert (len(walk.mapped), len(reached - walk.layered - walk.mapped)) == MODELS[name][1:]


def test_a_use_outside_the_layer_that_only_some_examples_need_is_counted() -> None:
    model, examples = settled(Functional(always=False)), clouds(6)
    examples.pixel_values[1, 0] = 60.0  # not among the three examples that decide how parameters are treated
    model(examples.pixel_values)[1].sum().backward()
    expected = by_loop(model, examples, "empirical")
    for batch_size in (1, 2, 7):
        assert_close(fisher(model, examples, "empirical", logits=logits_of, batch_size=batch_size), expected)


@pytest.mark.parametrize("added", [False, True])
def test_rows_that_do_not_compete_count_for_nothing_and_make_no_nan(added: bool) -> None:
    owners = torch.tensor([0, 0, 1, 1])

    def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        z = logits_of(model, batch)
        if added:  # z − ∞, through which gradients pass
            return z + mask_rivals(torch.zeros_like(z), batch["labels"], owners)
        return mask_rivals(z, batch["labels"], owners)

    # Twice is layered; the weight of Functional takes vmap, that of Refused one example at a time.
    for model in (Twice(), Functional(), Refused()):
        model, examples = settled(model), clouds(6)  # noqa: PLW2901
        for kind in ("exact", "empirical"):
            found = fisher(model, examples, kind, logits=logits)
            assert_close(found, by_loop(model, examples, kind, logits))
        assert_close(sensitivity(model, examples, logits=logits), by_loop(model, examples, "sensitivity", logits))


@given(
    many=st.integers(1, 6),
    tokens=st.integers(1, 5),
    width=st.integers(1, 6),
    batch_size=st.integers(1, 7),
    bound=st.sampled_from([1, 600, 64 << 20]),
    flat=st.booleans(),
)
def test_any_shape_batch_size_and_memory_bound_gives_the_same_numbers(
    many: int, tokens: int, width: int, batch_size: int, bound: int, flat: bool
) -> None:
    model, examples = settled(Tokens(width, flat)), clouds(tokens, 3, many=many)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(per_example, "_BOUND", bound)
        found = fisher(model, examples, "exact", logits=logits_of, batch_size=batch_size)
    assert_close(found, by_loop(model, examples, "exact"), 1e-8)


@pytest.mark.parametrize("bound", [1, 3000])
@pytest.mark.parametrize("name", ["convolutions", "language model", "used functionally", "vit"])
def test_a_smaller_memory_bound_changes_nothing(name: str, bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(per_example, "_BOUND", bound)
    model, examples = MODELS[name][0]()
    model = settled(model)
    assert_close(fisher(model, examples, "exact", logits=logits_of), by_loop(model, examples, "exact"))


def test_no_dense_gradient_of_an_embedding_is_made_for_each_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "new_zeros", small := Largest(torch.Tensor.new_zeros))
    model, examples = settled(Language(words=500, tied=False)), sentences(500, rows=500)
    fisher(model, examples, "empirical", logits=logits_of)
    assert small.elements == 500 * 5


class Largest:
    """`new_zeros`, which notes how much was asked for."""

    def __init__(self, inner: Callable[..., Tensor]) -> None:
        self.inner, self.elements = inner, 0

    def __get__(self, tensor: Tensor, kind: type) -> Callable[..., Tensor]:
        def call(*shape: int, **keys: object) -> Tensor:
            found = self.inner(tensor, *shape, **keys)
            self.elements = max(self.elements, found.numel())
            return found

        return call


def facts(model: nn.Module) -> list[object]:
    """Modes, hooks, buffers, weights, their gradients and versions: what a look must leave alone."""
    found: list[object] = []
    for module in model.modules():
        hooks = [dict(getattr(module, key)) for key in vars(module) if "hooks" in key]
        found.append((module.training, hooks, [id(tensor) for tensor in module.parameters()]))
    for tensor in (*model.parameters(), *model.buffers()):
        gradient = None if tensor.grad is None else (id(tensor.grad), tensor.grad.tolist())
        found.append((tensor.tolist(), gradient, tensor._version, tensor.requires_grad))
    return found


@pytest.mark.parametrize("name", ["convolutions", "used functionally", "refused by vmap", "language model", "vit"])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_model_nor_of_the_generators_changes_even_after_an_error(name: str, fails: bool) -> None:
    model, examples = MODELS[name][0]()
    model = settled(model).train()
    next(module for module in model.modules() if not list(module.children())).eval()
    logits_of(model, examples.__getitems__([0, 1])).sum().backward()
    before, state = copy.deepcopy(facts(model)), torch.get_rng_state()

    def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        z = logits_of(model, batch)
        if fails:
            raise RuntimeError("out of luck")
        return z

    with torch.no_grad():
        for kind in ("exact", "empirical", "batched"):
            try:
                fisher(model, examples, kind, logits=logits, batch_size=3)
                assert not fails
            except RuntimeError as error:
                assert fails and "out of luck" in str(error)
        assert not torch.is_grad_enabled()
    assert facts(model) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_lower_precision_is_summed_in_fp32_and_given_in_the_type_of_the_weights() -> None:
    model, examples = settled(Tokens()), clouds(3, 3, many=40)
    exact = fisher(model, examples, "exact", logits=logits_of)
    short = TensorExamples(examples.pixel_values.bfloat16(), examples.labels)
    found = fisher(copy.deepcopy(model).bfloat16(), short, "exact", logits=logits_of, batch_size=4)
    for name, tensor in exact.items():
        assert found[name].dtype is torch.bfloat16
        assert float((found[name].double() - tensor).norm() / tensor.norm()) < 0.1
