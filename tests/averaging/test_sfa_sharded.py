"""Weights that are sharded over processes: whole distances, local bytes, and FSDP1 refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from stockpot import SFA, SFACallback, StockpotError
from stockpot.importance import fisher, sensitivity


def network() -> nn.Sequential:
    """Odd sizes: the shards of two processes differ, and of the last layer the second process has none."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(13, 31), nn.Linear(31, 1)).double()


def moved(model: nn.Module, by: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            gap = by[name]
            if isinstance(tensor, DTensor):
                gap = distribute_tensor(gap, tensor.device_mesh, tensor.placements, src_data_rank=None).to_local()
                tensor.to_local().add_(gap)
            else:
                tensor.add_(gap)


def gaps() -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(1)
    shapes = {name: tensor.shape for name, tensor in network().named_parameters()}
    return {name: torch.randn(shape, generator=draws, dtype=torch.float64) for name, shape in shapes.items()}


def placed(shape: tuple[int, ...], placements: list[Any]) -> nn.Module:
    model = network()
    mesh = init_device_mesh("cpu", shape)
    for module in model.children():
        for name, tensor in list(module.named_parameters()):
            setattr(module, name, nn.Parameter(distribute_tensor(tensor.detach(), mesh, placements)))
    return model


def mixed() -> nn.Module:
    """The first layer over both processes, the second whole in each of them."""
    model = network()
    fully_shard(model[0], mesh=init_device_mesh("cpu", (2,)))
    return model


LAYOUTS: dict[str, Any] = {
    "sharded": lambda: placed((2,), [Shard(0)]),
    "replicated and sharded": lambda: placed((2, 1), [Replicate(), Shard(0)]),
    "sharded twice": lambda: placed((1, 2), [Shard(0), Shard(0)]),
    "replicated": lambda: placed((2,), [Replicate()]),
    "in part": mixed,
}


def test_distance_is_whole_and_bytes_are_local_in_every_layout(tmp_path: Path) -> None:
    def work(rank: int) -> dict[str, tuple[float, int, int]]:
        measured = {}
        for name, build in LAYOUTS.items():
            model = build()
            sfa = SFA(model, beta=0.25, every=1)
            moved(model, gaps())
            pieces = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
            measured[name] = sfa.distance(), sfa.anchor_bytes, sum(piece.nbytes for piece in pieces)
        return measured

    expected = sum(float(gap.square().sum()) for gap in gaps().values()) ** 0.5
    everything = sum(gap.nbytes for gap in gaps().values())
    first, second = on_ranks(work, tmp_path)
    for name in LAYOUTS:
        assert first[name][0] == second[name][0] == pytest.approx(expected, rel=1e-14)
        for _, anchor_bytes, local_bytes in (first[name], second[name]):
            assert anchor_bytes == local_bytes
    assert first["sharded"][1] > second["sharded"][1] > 0
    assert first["sharded"][1] + second["sharded"][1] == everything
    assert first["replicated"][1] == everything


def refusals(model: nn.Module) -> list[str]:
    anchor = {name: tensor.detach() for name, tensor in network().state_dict().items()}
    examples: Any = [0]
    messages = []
    for attempt in (
        lambda: SFA(model, beta=0.25, every=1),
        lambda: SFA(model, beta={"0.*": 0.1, "*": 0.2}, every=1, anchor=anchor),
        lambda: start_training(model),
        lambda: fisher(model, examples, "exact", logits=lambda model, batch: batch),
        lambda: sensitivity(model, examples, logits=lambda model, batch: batch),
    ):
        with pytest.raises(StockpotError) as caught:
            attempt()
        messages.append(str(caught.value))
    return messages


def start_training(model: nn.Module) -> None:
    arguments: Any = type("Arguments", (), {"save_strategy": "no", "output_dir": "."})()
    state: Any = type("State", (), {"global_step": 0, "max_steps": 8})()
    SFACallback(beta=0.25, p=0.25).on_train_begin(arguments, state, None, model=model)  # type: ignore[arg-type]


def test_fsdp1_is_refused_wherever_a_model_comes_in(tmp_path: Path) -> None:
    def attempts(original: bool) -> list[list[str]]:
        def wrap(module: nn.Module) -> FullyShardedDataParallel:
            return FullyShardedDataParallel(module, use_orig_params=original, device_id=torch.device("cpu"))

        whole = wrap(network())
        part = network()
        part[1] = wrap(part[1])
        late = network()
        sfa = SFA(late, beta=0.25, every=1)
        wrap(late)
        with pytest.raises(StockpotError, match="FSDP1") as caught:
            sfa.step()
        return [refusals(whole), refusals(part), refusals(whole.module), [str(caught.value)]]

    of_ranks = on_ranks(lambda rank: [attempts(original) for original in (True, False)], tmp_path)
    for whole, part, inner, late in (messages for rank in of_ranks for messages in rank):
        assert all(message.startswith("FSDP1 (FullyShardedDataParallel) wraps the model: ") for message in whole)
        assert all(message.startswith("FSDP1 (FullyShardedDataParallel) wraps its module '1': ") for message in part)
        assert all("is a piece of flat parameters of FSDP1" in message for message in inner + late)
        messages = whole + part + inner + late
        assert all("fully_shard" in message and "\n" not in message for message in messages)


def test_an_anchor_of_flat_pieces_is_refused() -> None:
    with pytest.raises(StockpotError, match=r"'_flat_param' is a flat piece of FSDP1: pass a full state dict"):
        SFA(network(), beta=0.25, every=1, anchor={"_flat_param": torch.zeros(7)})
