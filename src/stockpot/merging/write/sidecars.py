"""Writes the files next to merged weights: configuration, tokenizer, model card, the recipe and its inputs."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from stockpot.files import sha256
from stockpot.merging.plan.merge_plan import Plan
from stockpot.merging.read.sources import TensorSource
from stockpot.merging.spec.merge_spec import spec_to_mapping
from stockpot.merging.write.agreement import check_agreement
from stockpot.merging.write.donor import Sidecars
from stockpot.merging.write.merge_card import merge_card
from stockpot.merging.write.output_config import untie
from stockpot.version import __version__
from stockpot.weights.layout import read_layout
from stockpot.yaml_text import dump_yaml


def write_sidecars(
    folder: Path,
    plan: Plan,
    sidecars: Sidecars,
    paths: Mapping[str, Path],
    fishers: Mapping[str, TensorSource],
    hash_files: bool = False,
) -> None:
    """Writes everything but the weights, which are already in `folder`.

    `stockpot_merge.yaml` is the recipe of the same merge; `stockpot_merge.json` lists what was read, with `hash_files`
    including the SHA-256 of every input file.
    """
    notes = [*plan.notes, *sidecars.notes]
    for name, file in sidecars.copies.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)
    texts = dict(sidecars.texts)
    if sidecars.config is not None:
        written = read_layout(folder).entries
        notes += untie(sidecars.config, written)
        check_agreement(written, sidecars.config, plan, sidecars.donor)
        texts["config.json"] = _json(sidecars.config)
    texts["stockpot_merge.yaml"] = dump_yaml(spec_to_mapping(plan.spec), width=80)
    texts["stockpot_merge.json"] = _json(_facts(plan, sidecars, fishers, notes, hash_files))
    texts["README.md"] = merge_card(plan, sidecars, paths, notes)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", errors="replace")


def _json(value: Any) -> str:
    # Transformers writes Infinity into some configurations, which json.dumps keeps.
    return json.dumps(value, indent=2) + "\n"


def _facts(
    plan: Plan, sidecars: Sidecars, fishers: Mapping[str, TensorSource], notes: Sequence[str], hash_files: bool
) -> dict[str, Any]:
    sources = [*zip(plan.spec.paths, plan.sources, strict=True), *fishers.items()]
    files = {facts.file: facts for _, source in sources for facts in source.files}
    with ThreadPoolExecutor(2) as pool:
        sums = dict(zip(files, pool.map(sha256, files), strict=True)) if hash_files else {}

    def described(source: TensorSource) -> list[dict[str, Any]]:
        return [
            {"name": facts.file.name, "bytes": facts.nbytes, "header_sha256": facts.header_sha256}
            | ({"sha256": sums[facts.file]} if hash_files else {})
            for facts in source.files
        ]

    parameters: Counter[str] = Counter()
    for target in plan.targets:
        parameters[target.dtype] += target.numel
    return {
        "stockpot": __version__,
        "rule": plan.spec.rule,
        "inputs": [{"model": name, "files": described(source)} for name, source in sources],
        "output": {"parameters": parameters.total(), "bytes": plan.nbytes, "parameters_by_dtype": dict(parameters)},
        "configuration_of": sidecars.donor,
        "tokenizer_of": sidecars.tokenizer,
        "notes": list(notes),
    }
