"""What an output takes over from one named input: configuration, tokenizer, processor. Settled before the merge."""

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
# A name of anything else is not one that a library looks for.
_PLAIN = re.compile(r"[\w.@-]+")
# These keys tell of the file, not of the model.
_OF_ONE_FILE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
_LONGEST_TEXT = 64 << 20


@dataclass(frozen=True)
class Sidecars:
    """What will stand beside the weights.

    `donor` and `tokenizer` are the inputs that it comes from; `config` is the output's configuration, None where the
    donor has none; `copies` are the donors' files by their names in the output, `texts` are written over them.
    """

    donor: str
    tokenizer: str
    config: dict[str, Any] | None
    copies: Mapping[str, Path]
    texts: Mapping[str, str]
    notes: Sequence[str]


def choose_sidecars(plan: Plan, paths: Mapping[str, Path]) -> Sidecars:
    """What is taken from whom; `paths` are the local places of the inputs that lie on a disk, by their names.

    The donor is the base, else the first model; the tokenizer's is the one that the spec names. All that stands beside
    the donor's weights is taken, but for what `companions` leaves out, which a note names. Raises StockpotError where
    the tokenizer's donor or the chat template is not known, a file that is needed is damaged, too large or a link out
    of its folder, or the donor's weights are quantised.
    """
    spec, notes = plan.spec, list[str]()
    donor = spec.base or spec.paths[0]
    teacher = _tokenizer_donor(spec, paths, donor)
    copies = dict(_files(paths.get(donor), _OF_MODEL)) | dict(_files(paths.get(teacher), _OF_TOKENIZER))
    copies = _companions(plan, paths, donor, notes) | copies
    for name, file in copies.items():
        if (name.endswith("_config.json") or name == _CONFIG) and "auto_map" in read_mapping(file):
            owner = teacher if name == _TOKENIZER_CONFIG else donor
            notes.append(f"{name} of {owner} names code of its own (auto_map): loading needs it, it is not copied.")
    config = None
    if _CONFIG in copies:
        own = read_mapping(copies.pop(_CONFIG))
        config, more = output_config(own, plan, donor)
        more += check_agreement([target.name for target in plan.targets], config, plan, donor)
        notes += [*more, *_other_configurations(paths, donor, own)]
    else:
        notes.append(f"{donor} has no config.json, so that from_pretrained cannot load the output as it stands.")
    notes += _other_vocabularies(paths, teacher, copies)
    texts = _chat_template(spec, paths, teacher, copies, notes)
    return Sidecars(donor, teacher, config, copies, texts, notes)


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
    others = {name: place for name, place in paths.items() if place != folder and place.is_dir()}
    notes += [*taken.notes(donor), *differing(taken, donor, others)]
    return taken.files


def read_mapping(file: Path) -> dict[str, Any]:
    """The mapping in a JSON file; raises StockpotError where it is none, or longer than 64 MiB."""
    try:
        value = json.loads(_text(file))
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
    teacher = spec.base if spec.tokenizer == "base" and spec.base else spec.tokenizer
    if teacher not in paths:
        if teacher in spec.paths:
            raise StockpotError(f"tokenizer_source: {teacher!r} is in memory, and has no tokenizer; name a folder.")
        known = ["base", *paths] if spec.base else list(paths)
        hint = did_you_mean(teacher, known) or f" Known: {', '.join(known)}."
        raise StockpotError(f"tokenizer_source: {teacher!r} is none of the models.{hint}")
    return teacher


def _files(folder: Path | None, patterns: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Name in the output → file; nothing where there is no folder."""
    if folder is None or not folder.is_dir():
        return
    found = [path for path in folder.iterdir() if any(fnmatchcase(path.name, pattern) for pattern in patterns)]
    if _TEMPLATE in patterns:
        found += (folder / _MORE_TEMPLATES).glob("*.jinja")
    for path in sorted(found):
        if _PLAIN.fullmatch(path.name) and not path.is_dir():
            if require_inside(folder, path).stat().st_size > LARGEST_COMPANION:
                raise StockpotError(
                    f"{path} has {path.stat().st_size:,} bytes; more than {LARGEST_COMPANION:,} are not copied."
                )
            yield path.relative_to(folder).as_posix(), path


def _others(paths: Mapping[str, Path], donor: str, patterns: Sequence[str]) -> Iterator[tuple[str, str, Path]]:
    """Model, name and file of what other inputs have. It is only compared: what may not be read is passed over."""
    for name, place in paths.items():
        if place != paths.get(donor):
            with contextlib.suppress(StockpotError, OSError):
                yield from ((name, held, file) for held, file in list(_files(place, patterns)))


def _other_configurations(paths: Mapping[str, Path], donor: str, config: Mapping[str, Any]) -> Iterator[str]:
    for name, _, file in _others(paths, donor, (_CONFIG,)):
        try:
            other = read_mapping(file)
        except StockpotError as error:
            yield f"{error} It is not needed: that of {donor} is taken."
            continue
        differing = sorted(key for key in {*config, *other} - _OF_ONE_FILE if config.get(key) != other.get(key))
        if differing:
            shown = ", ".join(differing[:5]) + (" …" if len(differing) > 5 else "")
            yield f"config.json of {name} differs from that of {donor}, which is taken, in {shown}."


def _other_vocabularies(paths: Mapping[str, Path], teacher: str, copies: Mapping[str, Path]) -> Iterator[str]:
    for name, held, file in _others(paths, teacher, _VOCABULARY):
        if held not in copies:
            yield f"{name} has a {held}, and {teacher}, whose tokenizer is taken, has none."
        elif not filecmp.cmp(file, copies[held], shallow=False):
            yield f"{held} of {name} is not that of {teacher}, which is taken; embeddings are merged row by row."


def _chat_template(
    spec: MergeSpec, paths: Mapping[str, Path], teacher: str, copies: dict[str, Path], notes: list[str]
) -> dict[str, str]:
    """The files that hold the template that was asked for; nothing where none was, or no input has one."""
    if spec.chat_template is None:
        return {}
    template = spec.chat_template
    if template == "auto":
        held = {name: found for name, place in paths.items() if (found := _template_of(place))}
        if not held:
            notes.append("chat_template: auto: no input has a chat template.")
            return {}
        votes = list(held.values())
        template = max([held[teacher], *votes] if teacher in held else votes, key=votes.count)
    elif "{" not in template:
        raise StockpotError(
            f"chat_template: {template!r} is not known: 'auto' takes the inputs' most common one; "
            "or give the template itself, in Jinja."
        )
    texts = {_TEMPLATE: template}
    copies.pop("chat_template.json", None)  # an older place of the same
    if _TOKENIZER_CONFIG in copies:
        config = read_mapping(copies[_TOKENIZER_CONFIG])
        if "chat_template" in config:
            texts[_TOKENIZER_CONFIG] = json.dumps(config | {"chat_template": template}, indent=2) + "\n"
    return texts


def _template_of(folder: Path) -> str | None:
    found = dict(_files(folder, (_TEMPLATE, _TOKENIZER_CONFIG)))
    if _TEMPLATE in found:
        return _text(found[_TEMPLATE])
    if _TOKENIZER_CONFIG not in found:
        return None
    template = read_mapping(found[_TOKENIZER_CONFIG]).get("chat_template")
    if isinstance(template, list):  # named ones
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
