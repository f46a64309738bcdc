"""A resumed run equals an unbroken one bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stockpot import SFA, StockpotError
from stockpot.weights.checkpoint import save_checkpoint

TOTAL = 23


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, sfa: SFA, first: int, last: int) -> None:
    for step in range(first, last):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).to(model[0].weight.dtype)
        optimizer.zero_grad()
        (model(x) - x[:, :3].sin()).pow(2).mean().backward()
        optimizer.step()
        sfa.step()


def final(model: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in model.state_dict().values()]


@pytest.mark.parametrize("stop", [1, 7, 11, 22])
@pytest.mark.parametrize(
    "settings",
    [
        {"p": 0.3, "total_steps": TOTAL},
        {"every": 4, "keep": "cpu"},
        {"p": 0.3, "total_steps": TOTAL, "keep": "disk"},
        {"p": 0.3, "total_steps": TOTAL, "keep": "disk", "folder": "anchors"},
        {"p": 0.3, "total_steps": TOTAL, "anchor": "file"},
        {"every": 4, "rounding": "stochastic"},
    ],
    ids=["p", "every", "disk", "folder", "path", "stochastic"],
)
def test_resumed_equals_unbroken(settings: dict[str, Any], stop: int, tmp_path: Path) -> None:
    half = "rounding" in settings
    settings = {**settings, "beta": {"0.*": 0.5, "*": 0.25}}
    if "folder" in settings:
        settings["folder"] = tmp_path / "anchors"
    if "anchor" in settings:
        settings["anchor"] = tmp_path / "anchor.safetensors"
        save_checkpoint(network(5).state_dict(), settings["anchor"])

    def fresh(seed: int) -> tuple[nn.Module, torch.optim.Optimizer, SFA]:
        model = network(seed).bfloat16() if half else network(seed)
        generator = torch.Generator().manual_seed(9) if half else None
        return model, torch.optim.Adam(model.parameters()), SFA(model, generator=generator, **settings)

    model, optimizer, sfa = fresh(0)
    train(model, optimizer, sfa, 0, TOTAL)
    finished = sfa.finish()
    expected, counts = final(model), (sfa.steps, sfa.averages)

    model, optimizer, sfa = fresh(0)
    train(model, optimizer, sfa, 0, stop)
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "sfa": sfa.state_dict()}
    torch.save(saved, tmp_path / "state.pt")
    del model, optimizer, sfa, saved

    model, optimizer, _ = fresh(0)
    with torch.no_grad():  # what a resuming script has before it loads: not the start of the task
        for tensor in model.parameters():
            tensor.add_(3.0)
    sfa = SFA(model, generator=torch.Generator().manual_seed(77) if half else None, **settings)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    sfa.load_state_dict(state["sfa"])
    assert sfa.steps == stop
    train(model, optimizer, sfa, stop, TOTAL)
    assert sfa.finish() == finished
    assert (sfa.steps, sfa.averages) == counts
    for a, b in zip(final(model), expected, strict=True):
        assert torch.equal(a, b)


def test_finish_is_remembered() -> None:
    model = network()
    sfa = SFA(model, beta=0.25, every=10)
    sfa.step()
    assert sfa.finish()
    again = SFA(model, beta=0.25, every=10)
    again.load_state_dict(sfa.state_dict())
    assert not again.finish()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"beta": 0.5}, "beta is 0.5 here and 0.25 in the saved state"),
        ({"p": 0.2}, "p is 0.2 here and 0.1 in the saved state"),
        ({"total_steps": 20}, "total_steps is 20 here and 10 in the saved state"),
        ({"p": None, "every": 3}, "p is None here and 0.1"),
    ],
)
def test_other_settings_are_refused(changed: dict[str, Any], words: str) -> None:
    settings: dict[str, Any] = {"beta": 0.25, "p": 0.1, "total_steps": 10}
    state = SFA(network(), **settings).state_dict()
    with pytest.raises(StockpotError, match=words):
        SFA(network(), **{**settings, **changed}).load_state_dict(state)


def test_the_order_of_patterns_counts() -> None:
    state = SFA(network(), beta={"0.*": 0.1, "*": 0.2}, every=1).state_dict()
    with pytest.raises(StockpotError, match="beta is"):
        SFA(network(), beta={"*": 0.2, "0.*": 0.1}, every=1).load_state_dict(state)


def test_what_is_not_a_state_is_refused() -> None:
    sfa = SFA(network(), beta=0.25, every=1)
    with pytest.raises(StockpotError, match=r"not a state of SFA: it has no 'steps'. Did you mean 'step'"):
        sfa.load_state_dict({"step": 3})


def test_a_missing_anchor_file_is_named(tmp_path: Path) -> None:
    sfa = SFA(network(), beta=0.25, every=1, keep="disk", folder=tmp_path)
    state = sfa.state_dict()
    Path(state["anchor"]).unlink()
    with pytest.raises(StockpotError, match=r"anchor-.*safetensors no longer exists"):
        SFA(network(), beta=0.25, every=1).load_state_dict(state)


def test_an_anchor_file_that_moved_with_its_folder_is_found(tmp_path: Path) -> None:
    start = [tensor.detach().clone() for tensor in network().parameters()]
    state = SFA(network(), beta=1.0, every=1, keep="disk", folder=tmp_path / "run").state_dict()
    (tmp_path / "run").rename(tmp_path / "moved")
    model = network(1)
    sfa = SFA(model, beta=1.0, every=1, keep="disk", folder=tmp_path / "moved")
    sfa.load_state_dict(state)
    sfa.average()
    assert all(map(torch.equal, model.parameters(), start))


def test_the_content_of_an_anchor_in_a_file_is_checked(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_checkpoint(network(5).state_dict(), first)
    save_checkpoint(network(5).state_dict(), second)
    settings: dict[str, Any] = {"beta": 0.25, "every": 1}
    state = SFA(network(), anchor=first, **settings).state_dict()
    for keep in ("disk", "cpu"):  # the same anchor, wherever it lies and is held
        SFA(network(), anchor=second, keep=keep, **settings).load_state_dict(state)
    save_checkpoint(network(6).state_dict(), second)
    with pytest.raises(StockpotError, match=r"b.safetensors differs, in what is trained here, from the anchor"):
        SFA(network(), anchor=second, **settings).load_state_dict(state)
    save_checkpoint(network(6).state_dict(), first)
    with pytest.raises(StockpotError, match=r"a.safetensors differs, in what is trained here, from the anchor"):
        SFA(network(), **settings).load_state_dict(state)


def test_a_longer_training_resumes_if_every_says_when_to_average() -> None:
    state = SFA(network(), beta=0.25, every=4, total_steps=10).state_dict()
    longer = SFA(network(), beta=0.25, every=4, total_steps=20)
    longer.load_state_dict(state)
    assert not longer.schedule.due(10)
    SFA(network(), beta=0.25, every=4).load_state_dict(state)


def test_a_resumed_run_leaves_one_anchor_in_the_folder(tmp_path: Path) -> None:
    state = SFA(network(), beta=0.25, every=1, keep="disk", folder=tmp_path).state_dict()
    resumed = SFA(network(1), beta=0.25, every=1, keep="disk", folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    resumed.load_state_dict(state)
    assert [str(path) for path in tmp_path.iterdir()] == [state["anchor"]]
    resumed.load_state_dict(state)
    assert Path(state["anchor"]).is_file()
