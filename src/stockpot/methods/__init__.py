"""One file a method. Adding one: its file, its test, and one line of REGISTRY."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

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

MethodConfig = Annotated[
    sequential.Config | joint.Config | sfa.Config | wise_ft.Config | replay.Config, Discriminator("name")
]


def build(config: Any) -> Method:
    """The method that a configuration names."""
    return REGISTRY[config.name].method(config)
