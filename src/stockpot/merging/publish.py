"""What stands beside merged weights: configuration, tokenizer, model card, the recipe."""

from __future__ import annotations

import shutil
from pathlib import Path

from stockpot.merging.plan import Plan


def publish(folder: Path, plan: Plan, hash_files: bool) -> None:
    """Writes everything but the weights."""
    donor = Path(plan.spec.base or plan.spec.paths[0])
    if (donor / "config.json").is_file():
        shutil.copyfile(donor / "config.json", folder / "config.json")
