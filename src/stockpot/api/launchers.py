"""Refuses what launchers do to a command: several processes for one folder, settings that the recipe does not show."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

from stockpot.errors import StockpotError

# Launcher → the variables that hold the number of its processes. For Slurm that is the number in the job step: a
# batch script runs once, but sees SLURM_NTASKS too.
_COUNTS = {
    "torchrun or accelerate launch": ("WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    "mpirun": ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"),
    "horovodrun": ("HOROVOD_SIZE",),
    "srun": ("SLURM_STEP_NUM_TASKS",),
}
_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "HOROVOD_RANK", "SLURM_PROCID")
# What `accelerate launch` would change without the recipe showing it, and what to do instead.
_SETTINGS = {
    "ACCELERATE_USE_FSDP": "a stream is trained on one device in this version",
    "ACCELERATE_USE_DEEPSPEED": "ZeRO's master weights would undo every average at the next step",
    "ACCELERATE_USE_MEGATRON_LM": "a stream is trained on one device in this version",
    "ACCELERATE_MIXED_PRECISION": "set it in the recipe instead, train.bf16: true",
}
_PATIENCE = 1.0  # seconds for the first process to print its error: a launcher ends all processes when one ends


def refuse_launchers(environment: Mapping[str, str] = os.environ, *, shares: bool = False) -> None:
    """Raises StockpotError where a launcher started several processes of this command, or set how it should train.

    Of several processes only the first prints the error. With `shares`, each of several Slurm tasks has work of its
    own and is allowed.
    """
    for launcher, names in _COUNTS.items():
        count = max(_number(environment, name) for name in names)
        if count > 1 and not (shares and launcher == "srun"):
            if max(_number(environment, name) for name in _RANKS) > 0:
                time.sleep(_PATIENCE)
                sys.exit(2)
            raise StockpotError(
                f"{launcher} started {count} processes of this command, but only one process may write a folder: "
                "start it once, without the launcher."
            )
    for name, reason in _SETTINGS.items():
        if environment.get(name, "no").lower() not in ("", "no", "false", "0"):
            raise StockpotError(f"{name} is {environment[name]!r} in the environment: {reason}; unset it.")


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
