"""The Axolotl plugin, against a stand-in of Axolotl's interface.

Read in axolotl 0.19.0 (its pins are too tight to install it here): plugins are named `module.Class` and made without
arguments (`load_plugin`). `BasePlugin.get_input_args(self) -> str | None` gives `module.Class` of a pydantic model,
from which, after its own configuration, Axolotl derives a class, twice, by `from module import Class`
(`merge_input_args` in `integrations/config.py`); it validates the file with that class and keeps
`model_dump(exclude_none=True)` in a `DictDefault`: a dict, nested ones too, whose missing keys are None, and whose keys
are attributes. `BasePlugin.add_callbacks_post_trainer(self, cfg: DictDefault, trainer: Trainer) -> list[Callable]` is
called after the trainer is made; what it returns, if true, goes to `trainer.add_callback`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hf_training import trainer, weights
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor
from transformers import Trainer

from stockpot import SFACallback, StockpotError

PLUGIN = "stockpot.averaging.axolotl.SFAPlugin"


class DictDefault(dict[str, Any]):
    def __missing__(self, key: str) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        return self[name]


class BasePlugin:
    def __init__(self) -> None: ...

    def get_input_args(self) -> str | None: ...

    def add_callbacks_post_trainer(self, cfg: DictDefault, trainer: Trainer) -> list[Any]:
        return []


class AxolotlInputConfig(BaseModel):
    """Some keys of Axolotl's own; like it, this one lets unknown top-level keys pass."""

    model_config = ConfigDict(populate_by_name=True, extra="allow")

    base_model: str
    plugins: list[str] | None = None
    relora: bool | None = None


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The plugin as `load_plugin` makes it."""
    base = ModuleType("axolotl.integrations.base")
    base.BasePlugin = BasePlugin  # type: ignore[attr-defined]
    for name, module in (
        ("axolotl", ModuleType("axolotl")),
        ("axolotl.integrations", ModuleType("i")),
        (base.__name__, base),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules.pop("stockpot.averaging.axolotl", None)
    module_name, class_name = PLUGIN.rsplit(".", 1)
    yield getattr(importlib.import_module(module_name), class_name)()
    sys.modules.pop("stockpot.averaging.axolotl", None)


def validated(plugin: Any, **written: Any) -> DictDefault:
    """The configuration as Axolotl holds it after `merge_input_args` and validation."""
    module_name, class_name = plugin.get_input_args().rsplit(".", 1)
    added = getattr(importlib.import_module(module_name), class_name)
    merged = type("AxolotlInputConfig", (AxolotlInputConfig, added), {})
    checked = merged(**{"base_model": "tiny", "plugins": [PLUGIN], **written}).model_dump(exclude_none=True)
    return DictDefault(
        {key: DictDefault(value) if isinstance(value, dict) else value for key, value in checked.items()}
    )


def trained(folder: Path, make: Any) -> Tensor:
    training = trainer(folder, learning_rate=0.1, save_strategy="no")
    for callback in make(training):
        training.add_callback(callback)
    training.train()
    return weights(training.model)


def test_the_block_in_the_file_is_the_callback_with_these_arguments(plugin: Any, tmp_path: Path) -> None:
    assert isinstance(plugin, BasePlugin)
    settings = {"beta": {"layers.0.weight": 0.5, "*": 0.25}, "p": 0.25}
    cfg = validated(plugin, sfa=settings)
    through_plugin = trained(tmp_path, lambda trainer: plugin.add_callbacks_post_trainer(cfg, trainer))
    assert torch.equal(through_plugin, trained(tmp_path, lambda _: [SFACallback(**settings)]))
    assert not torch.equal(through_plugin, trained(tmp_path, lambda _: []))


def test_every_argument_of_the_callback_can_be_written(plugin: Any) -> None:
    import inspect

    settings = sys.modules["stockpot.averaging.axolotl"].SFABlock
    arguments = inspect.signature(SFACallback).parameters
    assert list(settings.model_fields) == list(arguments)
    for name, field in settings.model_fields.items():
        default = arguments[name].default
        assert field.description
        assert (
            default is inspect.Parameter.empty if field.is_required() else field.default == (default or field.default)
        )


def test_axolotls_own_keys_stay_as_they_are(plugin: Any) -> None:
    cfg = validated(plugin, sfa={"beta": 0.25, "every": 10}, a_key_of_another_plugin=1)
    assert cfg.a_key_of_another_plugin == 1  # the block is closed, the file is not
    assert cfg.base_model == "tiny"


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"sfa": {"betta": 0.25, "p": 0.1}}, "sfa has no key 'betta'. Did you mean 'beta'?"),
        ({"sfa": {"beta": 0.25}}, "either p (with total_steps) or every"),
        ({"sfa": {"beta": 1.25, "p": 0.1}}, "beta must lie in [0, 1]"),
        ({"sfa": {"beta": 0.25, "p": 0.1, "rounding": "up"}}, "Input should be 'nearest' or 'stochastic'"),
        (
            {"sfa": {"beta": "0.25", "p": 0.1}},
            "beta must lie in [0, 1], the weight of the anchor, or be 'auto', not '0.25'",
        ),
        ({"sfa": {"beta": {"*": "atuo"}}}, "beta of '*' must lie in [0, 1], the weight of the anchor, or be 'auto'"),
        ({"sfa": {"beta": "auto", "p": "often"}}, "Input should be a valid number"),
        ({}, "Field required"),
    ],
)
def test_mistakes_are_reported_when_the_file_is_read(plugin: Any, written: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        validated(plugin, **written)
    assert "sfa" in str(caught.value)
    assert words in str(caught.value)


def test_relora_and_a_missing_block_are_refused(plugin: Any) -> None:
    cfg = validated(plugin, sfa={"beta": 0.25, "p": 0.1}, relora=True)
    with pytest.raises(StockpotError, match="SFA and relora cannot be combined"):
        plugin.add_callbacks_post_trainer(cfg, None)
    with pytest.raises(StockpotError, match="needs its settings in the file"):
        plugin.add_callbacks_post_trainer(DictDefault(), None)


def test_beta_auto_and_its_keys_are_taken_from_the_file(plugin: Any) -> None:
    axolotl = sys.modules["stockpot.averaging.axolotl"]
    block = axolotl.SFABlock.model_validate({"beta": "auto", "strength": 2.0, "importance": "out/sfa-importance"})
    settings = block.callback()._settings
    assert (settings.beta, settings.p, settings.strength) == ("auto", 0.5, 2.0)
    assert settings.importance == "out/sfa-importance"
