"""One file a method. Adding one: its file, its test, and one line of REGISTRY."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple, Union

from pydantic import Discriminator

from stockpot.methods import (
    agem,
    dare,
    ewc,
    fisher_average,
    joint,
    l2,
    lwf,
    magmax,
    mas,
    replay,
    sequential,
    sfa,
    si,
    soup,
    task_arithmetic,
    ties,
    wise_ft,
)
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
    "l2": Entry(l2.Config, l2.L2),
    "ewc": Entry(ewc.Config, ewc.ElasticWeightConsolidation),
    "mas": Entry(mas.Config, mas.MemoryAwareSynapses),
    "si": Entry(si.Config, si.SynapticIntelligence),
    "lwf": Entry(lwf.Config, lwf.LearningWithoutForgetting),
    "replay": Entry(replay.Config, replay.Replay),
    "agem": Entry(agem.Config, agem.AveragedGradientEpisodicMemory),
    "task_arithmetic": Entry(task_arithmetic.Config, task_arithmetic.TaskArithmetic),
    "ties": Entry(ties.Config, ties.Ties),
    "dare": Entry(dare.Config, dare.Dare),
    "soup": Entry(soup.Config, soup.Soup),
    "magmax": Entry(magmax.Config, magmax.MagMax),
    "fisher_average": Entry(fisher_average.Config, fisher_average.FisherAverage),
}

if TYPE_CHECKING:
    MethodConfig = BaseConfig
else:
    MethodConfig = Annotated[Union[tuple(entry.config for entry in REGISTRY.values())], Discriminator("name")]  # noqa: UP007


def build(config: BaseConfig) -> Method:
    """The method that a configuration names."""
    return REGISTRY[config.name].method(config)
