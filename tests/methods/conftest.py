"""What the suites of methods share: a training is made once in a process, and every law is asserted on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from speaking import answered, classified, llama, t5, texts
from torch import nn
from toy import Learnt, Train, Weights, config, copied, learn, network, valued

from stockpot.batches.examples import Examples
from stockpot.methods import fisher_average


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """`train("sfa", "plain", {"beta": 0.3}, max_steps=5)` → two toy tasks learnt so; `on` is a kind of model and data.

    Kinds are "digits", "norm" (with dropout and batch norm), "texts" (a causal language model), "classified texts",
    "answers" (an encoder and a decoder), "regression" and "labels" (several of each example).
    What it returns is shared by the tests: read it, and change nothing of it.
    """
    trainings: dict[str, Learnt] = {}

    def learn_once(name: str, loop: str, keys: dict[str, Any], on: str = "digits", **settings: Any) -> Learnt:
        key = json.dumps([name, loop, keys, on, settings], sort_keys=True)
        if key not in trainings:
            kinds: dict[str, Callable[[], dict[str, Any]]] = {
                "digits": dict,
                "norm": lambda: {"model": network(dropout=0.3, norm=True)},
                "texts": lambda: {"model": llama(), "tasks": [texts(0), texts(1)]},
                "classified texts": lambda: {"model": llama(rows=4), "tasks": [classified(0), classified(1)]},
                "answers": lambda: {"model": t5(), "tasks": [answered(0), answered(1)]},
                "regression": lambda: {"tasks": [valued(n, True) for n in range(2)], "problem": "regression"},
                "labels": lambda: {
                    "tasks": [valued(n, False) for n in range(2)],
                    "problem": "multi_label_classification",
                },
            }
            folder = tmp_path_factory.mktemp(f"{name}-{loop}")
            trainings[key] = learn(config(name, **keys), loop, folder, **kinds[on](), **settings)
        return trainings[key]

    return learn_once


@pytest.fixture
def fishers(monkeypatch: pytest.MonkeyPatch) -> list[Weights]:
    """Random Fishers in place of estimated ones; gives the models at which they were asked for."""
    found: list[Weights] = []

    def fisher(model: nn.Module, own: Examples, kind: str, **more: Any) -> Weights:
        found.append(copied(model))
        return {name: torch.rand(one.shape, generator=more["draws"]).to(one) for name, one in model.named_parameters()}

    monkeypatch.setattr(fisher_average, "fisher", fisher)
    return found
