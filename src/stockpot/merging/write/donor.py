"""What the output takes over from one input: configuration, tokenizer, processor. Chosen before the merge starts."""

from __future__ import annotations

import contextlib
import filecmp
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from stockpot.errors import StockpotError, did_you_mean
from stockpot.files import explaining_disk_errors
from stockpot.merging.plan.merge_plan import Plan
from stockpot.merging.spec.merge_spec import MergeSpec
from stockpot.merging.write.agreement import check_agreement
from stockpot.merging.write.companions import LARGEST_COMPANION, companions, differing
from stockpot.merging.write.output_config import output_config
from stockpot.weights.layout import require_inside

_CONFIG, _TOKENIZER_CONFIG, _TEMPLATE = "config.json", "tokenizer_config.json", "chat_template.jinja"
_OF_MODEL = (_CONFIG, "generation_config.json", "*processor_config.json")
_VOCABULARY = (
    "tokenizer.json", "vocab.json", "vocab.txt", "vocab.bpe", "merges.txt", "*.model", "*.spm", "*.tiktoken",
    "bpe.codes", "dict.txt", "tekken.json",
)  # fmt: skip
_OF_TOKENIZER = (
    *_VOCABULARY, _TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json", "normalizer.json", "emoji.json",
    "source_vocab.json", "target_vocab.json", "entity_vocab.json", _TEMPLATE, "chat_template.json",
)  # fmt: skip
_MORE_TEMPLATES = "additional_chat_templates"
# No library looks for a file with any other characters in its name.
_PLAIN = re.compile(r"[\w.@-]+")
# Keys that describe the file, not the model.
_OF_ONE_FILE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
_LONGEST_TEXT = 64 << 20


@dataclass(frozen=True)
class Sidecars:
    """The files next to the weights.

    `donor` and `tokenizer` are the inputs that they come from. `config` is the output's configuration, None if the
    donor has none. `copies` maps names in the output to the donors' files; `texts` are written after them.
    """

    donor: str
    tokenizer: str
    config: dict[str, Any] | None
    copies: Mapping[str, Path]
    texts: Mapping[str, str]
    notes: Sequence[str]


def choose_sidecars(plan: Plan, paths: Mapping[str, Path]) -> Sidecars:
    """Decides which files come from which input; `paths` maps the names of inputs on disk to their folders.

    The donor is the base, else the first model; the tokenizer comes from the donor unless the spec names another input.
    All of the donor's files are copied but those that `companions` leaves out, which a note names. Raises
    StockpotError if the tokenizer's donor or the chat template is unknown, if a needed file is damaged, too large or a
    link out of its folder, or if the donor's weights are quantised.
    """
    spec, notes = plan.spec, list[str]()
    donor = spec.base or spec.paths[0]
    tokenizer = _tokenizer_donor(spec, paths, donor)
    copies = dict(_files(paths.get(donor), _OF_MODEL)) | dict(_files(paths.get(tokenizer), _OF_TOKENIZER))
    copies = _companions(plan, paths, donor, notes) | copies
    for name, file in copies.items():
        if (name.endswith("_config.json") or name == _CONFIG) and "auto_map" in read_mapping(file):
            owner = tokenizer if name == _TOKENIZER_CONFIG else donor
            notes.append(f"{name} of {owner} needs custom code to load (auto_map), which is not copied.")
    config = None
    if _CONFIG in copies:
        donor_config = read_mapping(copies.pop(_CONFIG))
        config, more = output_config(donor_config, plan, donor)
        more += check_agreement([target.name for target in plan.targets], config, plan, donor)
        notes += [*more, *_other_configurations(paths, donor, donor_config)]
    else:
        notes.append(f"{donor} has no config.json, so from_pretrained cannot load the output as it is.")
    notes += _other_vocabularies(paths, tokenizer, copies)
    texts = _chat_template(spec, paths, tokenizer, copies, notes)
    return Sidecars(donor, tokenizer, config, copies, texts, notes)


def _companions(plan: Plan, paths: Mapping[str, Path], donor: str, notes: list[str]) -> dict[str, Path]:
    folder = paths.get(donor)
    if folder is None or not folder.is_dir():
        return {}

    def settled(name: str) -> bool:
        top, _, rest = name.partition("/")
        if rest:
            return top == _MORE_TEMPLATES and fnmatchcase(rest, "*.jinja")
        known = any(fnmatchcase(name, pattern) for pattern in (*_OF_MODEL, *_OF_TOKENIZER))
        return known and _PLAIN.fullmatch(name) is not None

    merged = [facts.file for source in plan.sources for facts in source.files]
    taken = companions(folder, merged, settled)
    others = {name: path for name, path in paths.items() if path != folder and path.is_dir()}
    notes += [*taken.notes(donor), *differing(taken, donor, others)]
    return taken.files


def read_mapping(file: Path) -> dict[str, Any]:
    """Reads a JSON object; raises StockpotError if the file holds anything else or is longer than 64 MiB."""
    text = _text(file)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StockpotError(f"{file} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise StockpotError(f"{file} should hold a JSON object, not a {type(value).__name__}.")
    return value


def _text(file: Path) -> str:
    if file.stat().st_size > _LONGEST_TEXT:
        raise StockpotError(f"{file} has {file.stat().st_size:,} bytes; more than {_LONGEST_TEXT:,} are not read.")
    try:
        with explaining_disk_errors(file):
            return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StockpotError(f"{file}: not a text file in UTF-8.") from error


def _tokenizer_donor(spec: MergeSpec, paths: Mapping[str, Path], donor: str) -> str:
    if spec.tokenizer is None:
        return donor
    if spec.tokenizer == "base" and spec.base is None:
        raise StockpotError("tokenizer_source: there is no base; name one of the models.")
    tokenizer = spec.base if spec.tokenizer == "base" and spec.base else spec.tokenizer
    if tokenizer not in paths:
        if tokenizer in spec.paths:
            raise StockpotError(f"tokenizer_source: {tokenizer!r} is in memory and has no tokenizer; name a folder.")
        known = ["base", *paths] if spec.base else list(paths)
        hint = did_you_mean(tokenizer, known) or f" Known: {', '.join(known)}."
        raise StockpotError(f"tokenizer_source: {tokenizer!r} is not one of the models.{hint}")
    return tokenizer


def _files(folder: Path | None, patterns: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Pairs of name in the output and file; none if there is no folder."""
    if folder is None or not folder.is_dir():
        return
    files = [path for path in folder.iterdir() if any(fnmatchcase(path.name, pattern) for pattern in patterns)]
    if _TEMPLATE in patterns:
        files += (folder / _MORE_TEMPLATES).glob("*.jinja")
    for path in sorted(files):
        if _PLAIN.fullmatch(path.name) and not path.is_dir():
            if require_inside(folder, path).stat().st_size > LARGEST_COMPANION:
                raise StockpotError(
                    f"{path} has {path.stat().st_size:,} bytes; more than {LARGEST_COMPANION:,} are not copied."
                )
            yield path.relative_to(folder).as_posix(), path


def _others(paths: Mapping[str, Path], donor: str, patterns: Sequence[str]) -> Iterator[tuple[str, str, Path]]:
    """Model, file name and file of the other inputs. They are only compared, so unreadable ones are skipped."""
    for model, folder in paths.items():
        if folder != paths.get(donor):
            with contextlib.suppress(StockpotError, OSError):
                yield from ((model, name, file) for name, file in list(_files(folder, patterns)))


def _other_configurations(paths: Mapping[str, Path], donor: str, config: Mapping[str, Any]) -> Iterator[str]:
    for model, _, file in _others(paths, donor, (_CONFIG,)):
        try:
            other = read_mapping(file)
        except StockpotError as error:
            yield f"{error} It is not needed: that of {donor} is used."
            continue
        keys = sorted(key for key in {*config, *other} - _OF_ONE_FILE if config.get(key) != other.get(key))
        if keys:
            shown = ", ".join(keys[:5]) + (" …" if len(keys) > 5 else "")
            yield f"config.json of {model} differs from that of {donor}, which is used, in {shown}."


def _other_vocabularies(paths: Mapping[str, Path], tokenizer: str, copies: Mapping[str, Path]) -> Iterator[str]:
    for model, name, file in _others(paths, tokenizer, _VOCABULARY):
        if name not in copies:
            yield f"{model} has a {name}, but {tokenizer}, whose tokenizer is used, does not."
        elif not filecmp.cmp(file, copies[name], shallow=False):
            yield f"{name} of {model} differs from that of {tokenizer}, which is used; embeddings merge row by row."


def _chat_template(
    spec: MergeSpec, paths: Mapping[str, Path], tokenizer: str, copies: dict[str, Path], notes: list[str]
) -> dict[str, str]:
    """The files for the requested chat template; none if there is no request, or if no input has a template."""
    if spec.chat_template is None:
        return {}
    template = spec.chat_template
    if template == "auto":
        templates = {model: text for model, folder in paths.items() if (text := _template_of(folder))}
        if not templates:
            notes.append("chat_template: auto: no input has a chat template.")
            return {}
        votes = list(templates.values())
        # max takes the first of several with the most votes: the tokenizer's own, if it is one of them.
        template = max([templates[tokenizer], *votes] if tokenizer in templates else votes, key=votes.count)
    elif "{" not in template:
        raise StockpotError(
            f"chat_template: {template!r} is not a template: write 'auto' for the inputs' most common one, "
            "or the template itself, in Jinja."
        )
    texts = {_TEMPLATE: template}
    copies.pop("chat_template.json", None)  # where older versions keep it
    if _TOKENIZER_CONFIG in copies:
        config = read_mapping(copies[_TOKENIZER_CONFIG])
        if "chat_template" in config:
            texts[_TOKENIZER_CONFIG] = json.dumps(config | {"chat_template": template}, indent=2) + "\n"
    return texts


def _template_of(folder: Path) -> str | None:
    files = dict(_files(folder, (_TEMPLATE, _TOKENIZER_CONFIG)))
    if _TEMPLATE in files:
        return _text(files[_TEMPLATE])
    if _TOKENIZER_CONFIG not in files:
        return None
    template = read_mapping(files[_TOKENIZER_CONFIG]).get("chat_template")
    if isinstance(template, list):  # several templates with names
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
