"""Where the anchor is stored: never in the model's memory, and on disk in no memory at all."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stockpot import SFA
from stockpot.weights.checkpoint import open_checkpoint, save_checkpoint


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


def shift(model: nn.Module) -> None:
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(1.0)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("keep", [None, "device", "cpu", "disk"])
@pytest.mark.parametrize("source", ["start", "aliasing state dict", "state dict", "file", "folder", "mapped"])
def test_every_source_in_every_place_gives_the_same_average(source: str, keep: str | None, tmp_path: Path) -> None:
    model = network()
    start = state(model)
    save_checkpoint(start, tmp_path / "model.safetensors")
    anchor = {
        "start": "start",
        "aliasing state dict": model.state_dict(),
        "state dict": start,
        "file": tmp_path / "model.safetensors",
        "folder": str(tmp_path),
        "mapped": open_checkpoint(tmp_path),
    }[source]
    sfa = SFA(model, beta=0.25, every=1, anchor=anchor, keep=keep)
    shift(model)
    sfa.step()
    for name, tensor in model.named_parameters():
        torch.testing.assert_close(tensor.detach(), start[name] + 0.75)
    floating = sum(tensor.nbytes for tensor in start.values() if tensor.is_floating_point())
    on_disk = keep == "disk" or (keep is None and source in {"file", "folder", "mapped"})
    assert sfa.anchor_bytes == (0 if on_disk else floating)
    for name, tensor in start.items():
        assert torch.equal(tensor, open_checkpoint(tmp_path)[name])  # averaging wrote to no file


def test_a_state_dict_of_its_own_is_not_copied() -> None:
    model = network()
    anchor = state(model)
    sfa = SFA(model, beta=0.25, every=1, anchor=anchor)
    assert sfa.anchor["0.weight"].data_ptr() == anchor["0.weight"].data_ptr()


@pytest.mark.parametrize("keep", ["device", "cpu"])
def test_a_file_kept_in_memory_is_read_once(keep: str, tmp_path: Path) -> None:
    file = tmp_path / "anchor.safetensors"
    save_checkpoint({"weight": torch.ones(64, 64), "bias": torch.ones(64)}, file)
    sfa = SFA(nn.Linear(64, 64), beta=0.25, every=1, anchor=file, keep=keep)
    with file.open("r+b") as written:
        written.seek(-4 * 64 * 64, 2)
        written.write(bytes(4 * 64 * 64))
    assert torch.equal(sfa.anchor["weight"], torch.ones(64, 64))


def test_a_temporary_anchor_goes_with_the_object_and_a_named_folder_stays(tmp_path: Path) -> None:
    model = network()
    sfa = SFA(model, beta=0.25, every=1, keep="disk")
    assert sfa._anchored.anchor.path is not None
    scratch = sfa._anchored.anchor.path.parent
    assert scratch.is_dir()
    del sfa
    gc.collect()
    assert not scratch.exists()
    sfa = SFA(model, beta=0.25, every=1, keep="disk", folder=tmp_path / "here")
    del sfa
    gc.collect()
    assert len(list((tmp_path / "here").glob("anchor-*.safetensors"))) == 1


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    pytest.skip("this system does not report RssAnon")


def test_a_memory_mapped_anchor_takes_no_anonymous_memory(tmp_path: Path) -> None:
    size = 16_000_000  # 64 MB
    model = nn.Module()
    model.w = nn.Parameter(torch.zeros(size))
    save_checkpoint({"w": torch.ones(size)}, tmp_path / "anchor.safetensors")
    gc.collect()
    before = anonymous_bytes()
    sfa = SFA(model, beta=0.5, every=1, anchor=tmp_path / "anchor.safetensors")
    for _ in range(3):
        sfa.step()
    assert sfa.distance() == pytest.approx(0.125 * size**0.5)
    grown = anonymous_bytes() - before
    assert grown < 40e6, f"{grown / 1e6:.0f} MB"  # the slow path's pieces, not the anchor
    assert model.w[0].item() == 0.875


def test_shards_are_averaged_apart() -> None:
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_gloo_available():
        pytest.skip("gloo is not in this build of torch")
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        start = state(model)
        fully_shard(model, mesh=mesh)
        sfa = SFA(model, beta=0.25, every=1)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        for tensor in model.parameters():
            tensor.grad = torch.full_like(tensor, -1.0)
        optimizer.step()
        sfa.step()
        for name, tensor in model.named_parameters():
            assert isinstance(tensor, DTensor)
            torch.testing.assert_close(tensor.full_tensor().detach(), start[name] + 0.75)
        with pytest.raises(ValueError, match="is sharded over processes"):
            SFA(model, beta=0.25, every=1, anchor=start)
        with pytest.raises(ValueError, match="keep='disk' cannot hold it"):
            SFA(model, beta=0.25, every=1, keep="disk")
    finally:
        distributed.destroy_process_group()
