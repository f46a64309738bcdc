"""Exactly the k largest, the first of equals, whatever the values: against a stable sort."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import crossed
from torch import Tensor

from stockpot.merging.compute import cuts as module
from stockpot.merging.compute.cuts import Stretch, find_cuts
from stockpot.merging.rule import Cut
from stockpot.merging.rules.ties import trim


def stretches_of(sizes: Sequence[int], piece: int) -> list[Stretch]:
    return [
        Stretch(tensor, start, min(start + piece, size))
        for tensor, size in enumerate(sizes)
        for start in range(0, size, piece)
    ]


def kept(vectors: Sequence[Tensor], result: Sequence[Cut], piece: int) -> Tensor:
    parts = []
    for vector, cut in zip(vectors, result, strict=True):
        for start in range(0, vector.numel(), piece):
            parts.append(trim(vector[start : start + piece].clone(), cut, start))
    return torch.cat(parts) if parts else torch.empty(0)


def expected(vectors: Sequence[Tensor], k: int) -> Tensor:
    flat = torch.cat(list(vectors))
    result = torch.zeros_like(flat)
    order = torch.sort(flat.abs(), descending=True, stable=True).indices[:k]
    result[order] = flat[order]
    return result


def passes(vectors: Sequence[Tensor], k: int, piece: int, threads: int = 1) -> tuple[list[Cut], int]:
    """The cuts, and how many stretches were read in counting passes."""
    read: list[Stretch] = []
    sizes = [vector.numel() for vector in vectors]
    result = find_cuts(
        sizes,
        [{"top": k}],
        stretches_of(sizes, piece),
        lambda part: [vectors[part.tensor][part.start : part.stop].clone()],
        threads,
        vectors[0].dtype == torch.float64,
        read.append,
    )
    return [each[0]["top"] for each in result], len(read)


# Values with many equals, zeros of both signs, subnormals, huge ones.
ODD = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.0000001, 1e-45, -1e-40, 3e38, 0.5, -0.5]),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@given(
    data=st.lists(st.lists(ODD, min_size=1, max_size=40), min_size=1, max_size=4),
    share=st.floats(0, 1),
    piece=st.integers(1, 17),
    wide=st.booleans(),
    sample=st.sampled_from([1, 3, 1 << 20]),
    bins=st.sampled_from([2, 16, 1 << 20]),
    remembered=st.sampled_from([0, 1, 16]),
    gathered=st.sampled_from([0, 5, 1 << 22]),
)
@settings(max_examples=150, deadline=None)
def test_the_k_largest_are_kept_and_of_equals_the_first(
    data: list[list[float]],
    share: float,
    piece: int,
    wide: bool,
    sample: int,
    bins: int,
    remembered: int,
    gathered: int,
) -> None:
    dtype = torch.float64 if wide else torch.float32
    vectors = [torch.tensor(values, dtype=dtype) for values in data]
    k = max(1, int(share * sum(vector.numel() for vector in vectors)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SAMPLE", sample)
        patch.setattr(module, "_RUN", 2)
        patch.setattr(module, "_BINS", bins)
        patch.setattr(module, "_REMEMBERED", remembered)
        patch.setattr(module, "_GATHERED", gathered)
        result, _ = passes(vectors, k, piece)
    assert torch.equal(kept(vectors, result, piece), expected(vectors, k))


@pytest.fixture(scope="module", params=["normal", "bfloat16", "heavy", "mostly zero"])
def weights(request: pytest.FixtureRequest) -> tuple[str, list[Tensor], Tensor]:
    """The kind of weights, three tensors of 3 million elements in all, and the elements' order by magnitude."""
    generator = torch.Generator().manual_seed(3)
    flat = torch.randn(3_000_000, generator=generator)
    if request.param == "bfloat16":
        flat = (flat * 0.02 + 0.1).bfloat16().float() - (flat * 0.02).bfloat16().float()
    if request.param == "heavy":
        flat = flat / torch.randn(flat.shape, generator=generator)
    if request.param == "mostly zero":
        flat *= torch.rand(flat.shape, generator=generator) < 0.1
    order = torch.sort(flat.abs(), descending=True, stable=True).indices
    return request.param, [part.clone() for part in flat.split([1_000_000, 1_500_000, 500_000])], order


@pytest.mark.parametrize(("density", "gathered"), crossed([0.001, 0.2, 0.5, 0.9], [0, 1 << 22]))
def test_one_pass_is_enough_for_weights(
    weights: tuple[str, list[Tensor], Tensor], density: float, gathered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GATHERED", gathered)
    kind, vectors, order = weights
    k, piece = int(density * len(order)), 1 << 18
    result, read = passes(vectors, k, piece)
    flat, largest = torch.cat(vectors), order[:k]
    assert torch.equal(kept(vectors, result, piece), torch.zeros_like(flat).index_copy_(0, largest, flat[largest]))
    # Where magnitudes are spread over decades, a bracket can hold more bits than a histogram has bins: one more pass.
    once = len(stretches_of([vector.numel() for vector in vectors], piece))
    assert read == once or (read == 2 * once and not gathered and (kind == "heavy" or density in (0.001, 0.9)))


def test_a_sample_that_misleads_costs_passes_and_not_exactness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SAMPLE", 64)
    monkeypatch.setattr(module, "_RUN", 1)
    flat = torch.arange(6400.0) + 1
    flat[::100] = torch.linspace(1e-6, 2e-6, 64)  # the sample sees these alone
    result, read = passes([flat], 1000, 500)
    assert torch.equal(kept([flat], result, 500), expected([flat], 1000))
    assert read > len(stretches_of([6400], 500))


def test_threads_change_nothing() -> None:
    flat = torch.randn(2_500_000, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    assert passes([flat], 700_000, 1 << 16, threads=4) == passes([flat], 700_000, 1 << 16)


def test_nan_counts_as_the_largest_and_is_kept() -> None:
    vector = torch.tensor([1.0, float("nan"), 3.0, 2.0])
    result, _ = passes([vector], 2, 4)
    assert torch.equal(kept([vector], result, 4).isnan(), torch.tensor([False, True, False, False]))
    assert kept([vector], result, 4)[2] == 3
    nothing = find_cuts([4], [{"top": 0}], stretches_of([4], 4), lambda part: [vector], 1, False)[0][0]["top"]
    assert torch.equal(trim(torch.tensor([1.0, -5.0]), nothing, 0), torch.zeros(2))


def test_several_models_and_cuts_at_once() -> None:
    generator = torch.Generator().manual_seed(1)
    models = [torch.randn(5000, generator=generator) for _ in range(3)]
    result = find_cuts(
        [5000],
        [{"inner": 4000, "outer": 10}, {}, {"top": 1}],
        stretches_of([5000], 999),
        lambda part: [model[part.start : part.stop].clone() for model in models],
        2,
        False,
    )[0]
    assert [list(cuts) for cuts in result] == [["inner", "outer"], [], ["top"]]
    for number, name, k in ((0, "inner", 4000), (0, "outer", 10), (2, "top", 1)):
        assert torch.equal(kept([models[number]], [result[number][name]], 999), expected([models[number]], k))
