"""The model card of a merge: README.md, with the metadata that model hubs read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stockpot.markdown import code_block, code_span, escape_markdown, markdown_table
from stockpot.merging.plan.merge_plan import Plan
from stockpot.merging.spec.merge_spec import MergeSpec, spec_to_mapping
from stockpot.merging.write.donor import Sidecars
from stockpot.version import __version__
from stockpot.yaml_text import dump_yaml

_HUB = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_FEW = 50


def merge_card(plan: Plan, sidecars: Sidecars, paths: Mapping[str, Path], notes: Sequence[str]) -> str:
    """The card's text. Folders appear by their last parts only: local paths are private."""
    spec, names = plan.spec, short_names(plan.spec.paths, paths)
    library = "sentence-transformers" if "modules.json" in sidecars.copies else "transformers"
    metadata: dict[str, Any] = {"library_name": library} if sidecars.config is not None else {}
    metadata["tags"] = ["merge", "stockpot"]
    hub = [part.partition("@")[0] for path in spec.paths if path in paths for part in _parts(path) if is_hub(part)]
    if hub:
        metadata["base_model"] = list(dict.fromkeys(hub))
    count = len({part.source for target in plan.targets for part in target.inputs}) or len(spec.paths)
    over = f", over `{code_span(names[spec.base])}`" if spec.base else ""
    parts = [
        f"---\n{dump_yaml(metadata, width=80)}---",
        f"# {count} model{'s' * (count != 1)}, merged by {escape_markdown(spec.rule)}",
        f"Merged by `{code_span(spec.rule)}`{over}, with Stockpot {__version__}. {_size(plan)}",
        "## The rule",
        plan.rule.doc,
        _shared(plan),
        "## The models",
        _sliced(spec, names) if spec.slices else _models(plan, names),
        "## Configuration and tokenizer",
        _sidecars(sidecars, names),
    ]
    if notes:
        listed = [f"- {escape_markdown(_without_paths(note, names))}" for note in notes[:_FEW]]
        more = [f"- {len(notes) - _FEW} more, in `stockpot_merge.json`"] if len(notes) > _FEW else []
        parts += ["## Notes", "\n".join(listed + more)]
    recipe = dump_yaml(_shortened(spec_to_mapping(spec), names), width=80)
    usage = "`stockpot merge stockpot_merge.yaml -o FOLDER` repeats it; here folders appear by their last parts only."
    if len(paths) < len(spec.paths):
        usage = "Some models were given in memory and appear here by their position among the arguments."
    return "\n\n".join(part for part in [*parts, "## The recipe", usage, code_block(recipe, "yaml")] if part) + "\n"


def is_hub(name: str) -> bool:
    """Whether it names a model on the hub, and not an existing folder."""
    return bool(_HUB.fullmatch(name)) and not Path(name).expanduser().exists()


def short_names(names: Sequence[str], paths: Mapping[str, Path]) -> dict[str, str]:
    """Names on the hub unchanged; local paths by the fewest last parts that distinguish them from the others."""
    parts = {name: _parts(name) if name in paths else [name] for name in names}
    local = {part: Path(part).parts for name in paths for part in parts.get(name, ()) if not is_hub(part)}

    def ending(path: Sequence[str]) -> str:
        for length in range(1, len(path)):
            if sum(other[-length:] == path[-length:] for other in local.values()) == 1:
                return "/".join(path[-length:])
        return "/".join(path[-1:])

    return {name: "+".join(ending(local[part]) if part in local else part for part in parts[name]) for name in names}


def _parts(name: str) -> list[str]:
    """`BASE+ADAPTER` split in two; any other name as it is."""
    return [name] if Path(name).expanduser().exists() else name.split("+")


def _size(plan: Plan) -> str:
    count = sum(target.numel for target in plan.targets)
    return f"{len(plan.targets):,} tensors, {count:,} parameters, {plan.nbytes:,} bytes."


def _shared(plan: Plan) -> str:
    spec = plan.spec
    values = spec_to_mapping(spec).get("parameters", {})
    rows = [
        [parameter.name, _written(values.get(parameter.name, parameter.default_in(spec.dialect))), parameter.help]
        for parameter in plan.rule.parameters
        if not parameter.each
    ]
    if plan.rule.cuts:
        rows.append(["trim", spec.trim, "what the largest elements are counted over"])
    if plan.rule.random:
        rows.append(["seed", str(spec.seed), "of the random masks"])
    return markdown_table(["parameter", "value", "meaning"], rows) if rows else ""


def _models(plan: Plan, names: Mapping[str, str]) -> str:
    spec, rule = plan.spec, plan.rule
    each = {parameter.name: parameter.default_in(spec.dialect) for parameter in rule.parameters if parameter.each}
    shared = _shortened(spec_to_mapping(spec).get("parameters", {}), names)
    rows = []
    for model, described in zip(spec.models, spec_to_mapping(spec)["models"], strict=True):
        values = shared | _shortened(described.get("parameters", {}), names)
        rows.append([names[model.path], *(_written(values.get(name, default)) for name, default in each.items())])
    return markdown_table(["model", *each], rows)


def _sliced(spec: MergeSpec, names: Mapping[str, str]) -> str:
    rows, done = [], Counter[str]()
    for part in spec.slices:
        length = part.sources[0].last - part.sources[0].first
        origins = ", ".join(f"{names[source.path]}: {source.first} to {source.last - 1}" for source in part.sources)
        stack = part.stack or ""
        rows.append([f"{stack} {done[stack]} to {done[stack] + length - 1}".strip(), origins])
        done[stack] += length
    return markdown_table(["layers", "merged from the layers of"], rows)


def _sidecars(sidecars: Sidecars, names: Mapping[str, str]) -> str:
    if sidecars.config is None and not sidecars.copies and not sidecars.texts:
        return f"`{code_span(names[sidecars.donor])}` has no configuration: only weights were written."
    return (
        f"The configuration is that of `{code_span(names[sidecars.donor])}`; the tokenizer, if any, is that of "
        f"`{code_span(names[sidecars.tokenizer])}`."
    )


def _shortened(value: Any, names: Mapping[str, str], is_file: bool = False) -> Any:
    """The recipe with short names instead of paths."""
    if isinstance(value, Mapping):
        return {key: _shortened(part, names, is_file or key == "fisher") for key, part in value.items()}
    if isinstance(value, list):
        return [_shortened(part, names, is_file) for part in value]
    if isinstance(value, str):
        return Path(value).name if is_file else names.get(value, value)
    return value


def _without_paths(note: str, names: Mapping[str, str]) -> str:
    for name in sorted(names, key=len, reverse=True):
        note = note.replace(name, names[name])
    return note


def _written(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    return dump_yaml(value, width=1000, flow=True).split("\n")[0]
