"""One file a method. Adding one: its file, its test, and one line of REGISTRY."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple, Union

from pydantic import Discriminator

from stockpot.methods import joint, replay, sequential, sfa, wise_ft
from stockpot.methods.base import BaseConfig, Method


class Entry(NamedTuple):
    """A method's configuration and its class."""

    config: type[BaseConfig]
    method: type[Method]


REGISTRY: dict[str, Entry] = {
    "sequential": Entry(sequential.Config, sequential.Sequential),
    "joint": Entry(joint.Config, joint.Joint),
    "sfa": Entry(sfa.Config, sfa.SequentialFineTuningWithAveraging),
    "wise_ft": Entry(wise_ft.Config, wise_ft.WiseFT),
    "replay": Entry(replay.Config, replay.Replay),
}

if TYPE_CHECKING:
    MethodConfig = BaseConfig
else:
    MethodConfig = Annotated[Union[tuple(entry.config for entry in REGISTRY.values())], Discriminator("name")]  # noqa: UP007


def build(config: BaseConfig) -> Method:
    """The method that a configuration names."""
    return REGISTRY[config.name].method(config)
