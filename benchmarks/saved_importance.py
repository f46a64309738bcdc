"""Writes the importance that a run with `beta: auto` has after its last task as a folder for `importance: FOLDER`.

python benchmarks/saved_importance.py runs/auto-general runs/auto-general/importance
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.torch import load_file

from stockpot.averaging.past_importance import PastImportance


def main() -> None:
    """Reads the method's state, and writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    state = max((arguments.run / "state").iterdir())
    tensors = load_file(str(state / "method.safetensors"))
    past = {key.removeprefix("importance/"): value for key, value in tensors.items() if key.startswith("importance/")}
    tasks = json.loads((state / "method.json").read_text(encoding="utf-8"))["past_tasks"]
    PastImportance(past, tasks).save(arguments.folder)


if __name__ == "__main__":
    main()
