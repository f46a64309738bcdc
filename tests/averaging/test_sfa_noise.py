"""Stochastic rounding: unbiased noise on which all processes agree, for whole tensors and shards alike."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from stockpot import SFA
from stockpot.averaging.average import average, round_stochastically
from stockpot.averaging.match import TensorPair
from stockpot.averaging.noise import Noise, splitmix64


def test_it_is_splitmix64() -> None:
    # The first outputs for the seed 1234567, as published with the reference implementation.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    outputs = splitmix64(1234567, torch.arange(4))
    assert [int(value) % (1 << 64) for value in outputs] == published


def drawn(noise: Noise, name: str, many: int) -> Tensor:
    return noise.of(name, torch.empty(many)).bits(0, many)


def test_noise_is_uniform_and_differs_by_seed_step_average_and_tensor() -> None:
    many, first = 100_000, Noise(0, 10, 1)
    bits = drawn(first, "w", many)
    assert int(bits.min()) >= 0
    assert int(bits.max()) < 1 << 16
    error = (1 << 16) / (12 * many) ** 0.5
    assert abs(bits.double().mean().item() - ((1 << 16) - 1) / 2) < 4 * error
    assert all(abs(((bits >> bit) & 1).double().mean().item() - 0.5) < 4 * 0.5 / many**0.5 for bit in range(16))
    others = [Noise(1, 10, 1), Noise(0, 11, 1), Noise(0, 10, 2)]
    for other in (*(drawn(noise, "w", many) for noise in others), drawn(first, "v", many), bits.roll(1), bits.roll(4)):
        together = torch.corrcoef(torch.stack([bits, other]).double())[0, 1].item()
        assert abs(together) < 4 / many**0.5
    assert torch.equal(drawn(Noise(0, 10, 1), "w", many), bits)


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (3, 9), (4, 4), (1, 1000), (998, 1000)])
def test_a_piece_of_the_noise_is_the_noise_of_that_piece(start: int, stop: int) -> None:
    noise = Noise(3, 1, 0).of("w", torch.empty(1000))
    assert torch.equal(noise.bits(start, stop), noise.bits(0, 1000)[start:stop])


def test_over_averages_the_mean_is_the_exact_one() -> None:
    torch.manual_seed(0)
    weight, anchor, draws = torch.randn(500).bfloat16(), torch.randn(500), 1000
    exact = weight.float().lerp(anchor, 0.1).double()
    total = torch.zeros(500, dtype=torch.float64)
    for step in range(draws):
        tensor = nn.Parameter(weight.clone())
        average([TensorPair("w", tensor, anchor, 0.1, None, False)], Noise(0, step, step))
        total += tensor.detach().double()
    ulp = torch.exp2(torch.floor(torch.log2(exact.abs())) - 7)
    error = (total / draws - exact) / (ulp * 0.5 / draws**0.5)
    assert error.abs().max() < 5
    assert error.mean().abs() < 4 / 500**0.5


@pytest.fixture(params=[0, 1])
def rank(request: pytest.FixtureRequest) -> Iterator[int]:
    """One of two processes that never communicate."""
    dist.init_process_group("fake", rank=request.param, world_size=2, store=FakeStore())
    yield request.param
    dist.destroy_process_group()


@pytest.mark.parametrize("shape", [(7, 5), (1, 6), (5, 4, 3), (3,)], ids=str)
@pytest.mark.parametrize("dim", [0, 1, None], ids=["rows", "columns", "replicated"])
def test_a_shard_is_rounded_as_its_elements_in_the_whole_tensor(
    shape: tuple[int, ...], dim: int | None, rank: int
) -> None:
    if dim is not None and dim >= len(shape):
        pytest.skip("it has no such dimension")
    torch.manual_seed(0)
    weight, anchor = torch.randn(shape).bfloat16(), torch.randn(shape).bfloat16()
    whole = nn.Parameter(weight.clone())
    average([TensorPair("w", whole, anchor, 0.3, None, False)], Noise(5, 2, 1))
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=(f"of_{rank}",))  # DTensor keeps the last of equal meshes
    placement = Replicate() if dim is None else Shard(dim)

    def piece(tensor: Tensor) -> Tensor:
        if dim is None:
            return tensor.clone()
        chunks = tensor.chunk(2, dim)
        return chunks[rank].clone() if rank < len(chunks) else tensor.narrow(dim, 0, 0).clone()

    def sharded(tensor: Tensor) -> DTensor:
        stride = tensor.stride()
        return DTensor.from_local(piece(tensor), mesh, [placement], run_check=False, shape=tensor.shape, stride=stride)

    shard = nn.Parameter(sharded(weight))
    average([TensorPair("w", shard, sharded(anchor), 0.3, None, False)], Noise(5, 2, 1))
    assert torch.equal(shard.to_local(), piece(whole.detach()))


def test_the_layout_in_memory_does_not_matter() -> None:
    torch.manual_seed(0)
    weight, anchor = torch.randn(3, 8, 4, 4).bfloat16(), torch.randn(3, 8, 4, 4)
    plain = nn.Parameter(weight.clone())
    last = nn.Parameter(weight.clone(memory_format=torch.channels_last))
    for tensor in (plain, last):
        average([TensorPair("w", tensor, anchor, 0.3, None, False)], Noise(0, 1, 0))
    assert not last.is_contiguous()
    assert torch.equal(plain, last)


def half_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 12)).bfloat16()


def three_averages(model: nn.Module, seed: int = 0) -> Tensor:
    """Three averages of weights that move in between, as every process moves them."""
    anchor = {name: tensor + 0.1 for name, tensor in half_network().state_dict().items()}
    sfa = SFA(model, beta=0.3, every=1, anchor=anchor, rounding="stochastic", seed=seed)
    for _ in range(3):
        with torch.no_grad():
            for tensor in model.parameters():
                tensor.mul_(1.01)
        assert sfa.step()
    return torch.cat([tensor.detach().flatten() for tensor in model.parameters()])


def test_noise_depends_on_the_seed_and_not_on_torchs_generators() -> None:
    results = []
    for seed in (1, 2):
        model = half_network()
        torch.manual_seed(seed)
        results.append(three_averages(model))
    assert torch.equal(*results)
    assert not torch.equal(results[0], three_averages(half_network(), seed=1))


def one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", rank=rank, world_size=2, store=dist.FileStore(f"{folder}/store", 2))
    model = nn.parallel.DistributedDataParallel(half_network())
    torch.manual_seed(100 + rank)
    torch.save(three_averages(model), f"{folder}/weights-{rank}")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)


def test_the_processes_of_ddp_with_seeds_that_differ_stay_equal(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")  # it takes no second to start
    processes = [context.Process(target=one_of_two, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    first, second = (torch.load(tmp_path / f"weights-{rank}", weights_only=True) for rank in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, three_averages(half_network()))


def test_a_generator_draws_the_seed_once() -> None:
    def state(seed: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        return SFA(half_network(), beta=0.3, every=1, rounding="stochastic", generator=generator).state_dict()

    assert state(1)["seed"] == state(1)["seed"] != state(2)["seed"]


def test_a_resumed_training_rounds_as_the_unbroken_one_without_any_generator() -> None:
    def step(model: nn.Module, sfa: SFA) -> None:
        with torch.no_grad():
            for tensor in model.parameters():
                tensor.mul_(1.01)
        torch.rand(7)  # whatever else the training draws
        sfa.step()

    settings: dict[str, Any] = {"beta": 0.3, "every": 1, "rounding": "stochastic"}
    anchor = {name: tensor + 0.1 for name, tensor in half_network().state_dict().items()}
    model = half_network()
    sfa = SFA(model, anchor=anchor, seed=3, **settings)
    for _ in range(2):
        step(model, sfa)
    saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {**sfa.state_dict(), "anchor": anchor}
    step(model, sfa)
    resumed = half_network()
    resumed.load_state_dict(saved)
    torch.manual_seed(9)
    again = SFA(resumed, anchor=anchor, seed=4, **settings)
    again.load_state_dict(state)
    step(resumed, again)
    for a, b in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_infinities_and_exact_values_are_not_rounded() -> None:
    values = torch.tensor([0.0, -0.0, 1.0, -3.5, float("inf"), float("-inf"), float("nan")])
    for noise in (0, 1, (1 << 16) - 1):
        rounded = round_stochastically(values, torch.full(values.shape, noise, dtype=torch.int32))
        assert torch.equal(rounded.float().nan_to_num(7), values.nan_to_num(7))
