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
    "sequential": Entry(sequential.SequentialConfig, sequential.Sequential),
    "joint": Entry(joint.JointConfig, joint.Joint),
    "sfa": Entry(sfa.SFAConfig, sfa.SequentialFineTuningWithAveraging),
    "wise_ft": Entry(wise_ft.WiseFTConfig, wise_ft.WiseFT),
    "l2": Entry(l2.L2Config, l2.L2),
    "ewc": Entry(ewc.EWCConfig, ewc.ElasticWeightConsolidation),
    "mas": Entry(mas.MASConfig, mas.MemoryAwareSynapses),
    "si": Entry(si.SIConfig, si.SynapticIntelligence),
    "lwf": Entry(lwf.LwFConfig, lwf.LearningWithoutForgetting),
    "replay": Entry(replay.ReplayConfig, replay.Replay),
    "agem": Entry(agem.AGEMConfig, agem.AveragedGradientEpisodicMemory),
    "task_arithmetic": Entry(task_arithmetic.TaskArithmeticConfig, task_arithmetic.TaskArithmetic),
    "ties": Entry(ties.TiesConfig, ties.TiesMerging),
    "dare": Entry(dare.DareConfig, dare.Dare),
    "soup": Entry(soup.SoupConfig, soup.UniformSoup),
    "magmax": Entry(magmax.MagMaxConfig, magmax.MagMax),
    "fisher_average": Entry(fisher_average.FisherAverageConfig, fisher_average.FisherAverage),
}

if TYPE_CHECKING:
    MethodConfig = BaseConfig
else:
    MethodConfig = Annotated[Union[tuple(entry.config for entry in REGISTRY.values())], Discriminator("name")]  # noqa: UP007


def build(config: BaseConfig) -> Method:
    """The method that a configuration names."""
    return REGISTRY[config.name].method(config)
