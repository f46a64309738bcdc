"""A merge into a folder: written beside its final name, checked, synced, renamed; what is finished can be taken up."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from stockpot.errors import StockpotError
from stockpot.files import TEMPORARY, explaining_disk_errors, make_folder, sync, write_json
from stockpot.merging.compute.engine import Cuts, MergeEngine
from stockpot.merging.plan.merge_plan import Plan, Target
from stockpot.merging.plan.shards import file_names, split_into_shards
from stockpot.merging.rule import Cut
from stockpot.merging.write.shard_file import ShardFile, verify_shard

_JOURNAL = ".merge.json"  # hidden: no file that comes along with a model is


def refuse_output(output: Path, inputs: Sequence[Path]) -> None:
    """Raises StockpotError where the output is, holds, or lies in an input, or something stands there already."""
    if output.name in ("", ".."):
        raise StockpotError(f"'{output}' is no new folder; name one that the output becomes.")
    with explaining_disk_errors(output):
        if output.is_symlink():
            raise StockpotError(f"{output} is a link; name another folder, or delete it first.")
        place = output.resolve()
        for path in inputs:
            other = path.resolve()
            if place == other or place in other.parents or (other.is_dir() and other in place.parents):
                raise StockpotError(f"{output}: the output would overwrite the input {path}; name another folder.")
        if output.exists() and not (output.is_dir() and not any(output.iterdir())):
            raise StockpotError(f"{output} exists already; name another folder, or delete it first.")


def partial_folder(output: Path) -> Path:
    """Where a merge into `output` lies until it is whole."""
    return output.with_name(f"{TEMPORARY}merge-{output.name}")


def resume_hint(output: Path) -> str:
    """What to do after a merge into `output` that stopped: go on from the files that it finished, or begin again."""
    count = len(_journal(partial_folder(output))["shards"])
    if not count:
        return "nothing of it is kept: give the same command again."
    files = "1 finished file is" if count == 1 else f"{count:,} finished files are"
    return f"{files} kept: give the same command with --resume to go on from there."


def write_model(
    plan: Plan,
    engine: MergeEngine,
    output: Path,
    identity: str,
    largest: int,
    finish: Callable[[Path], None],
    verify: bool = True,
    durable: bool = True,
    resume: bool = False,
) -> list[str]:
    """Writes a merged model; returns the names of its weight files.

    `identity` says which merge it is: only the same one is taken up with `resume`. `finish` writes what belongs
    beside the weights. Nothing stands at `output` before all of it is written, verified and (`durable`) synced.
    """
    partial = partial_folder(output)
    with (
        explaining_disk_errors(output, lambda: f"free some space; {resume_hint(output)}"),
        _opened(partial, output, identity, resume) as done,
    ):
        shards = split_into_shards(plan.targets, largest)
        names = file_names(len(shards))
        journal: dict[str, Any] = done
        cuts = _global_cuts(plan, engine, partial, journal, names)
        for name, shard in zip(names, shards, strict=True):
            if _is_finished(partial / name, journal, name, verify):
                engine.on_progress(sum(target.nbytes for target in shard))
                continue
            (partial / name).unlink(missing_ok=True)
            file = ShardFile(partial / name, shard, {"format": "pt"}, verify)
            try:
                engine.merge(shard, file, cuts if cuts is not None else engine.own_cuts(shard))
            finally:
                file.close(durable)
            if verify:
                verify_shard(partial / name, file.sums, durable)
            if len(shards) > 1:
                journal["shards"][name] = {"bytes": file.nbytes, "sums": file.sums.tolist()}
                _note(partial, journal, durable)
        if len(shards) > 1:
            _write_index(partial, plan, shards, names)
        finish(partial)
        (partial / _JOURNAL).unlink(missing_ok=True)
        if durable:
            for path in partial.rglob("*"):
                sync(path)
            sync(partial)
        if output.is_dir():
            output.rmdir()
        partial.rename(output)
        if durable:
            sync(output.parent)
    return names


@contextlib.contextmanager
def _opened(partial: Path, output: Path, identity: str, resume: bool) -> Iterator[dict[str, Any]]:
    """The partial folder, locked, and its journal; after an error it stays where a shard is finished, else it goes."""
    make_folder(output.parent)
    if resume and not partial.is_dir():
        raise StockpotError(f"{output}: there is no unfinished merge to go on with; leave --resume out.")
    if partial.is_symlink():
        raise StockpotError(f"{partial} is a link: delete it.")
    partial.mkdir(exist_ok=True)
    handle = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StockpotError(f"{output}: another process is merging into it.") from error
        journal = _journal(partial)
        if journal["shards"] and not resume:
            raise StockpotError(
                f"{partial} holds {len(journal['shards'])} finished files of a merge that was interrupted: "
                "go on with --resume, or delete it."
            )
        if journal["shards"] and journal["identity"] != identity:
            raise StockpotError(
                f"{partial} is left of another merge, or its inputs have changed: delete it and start anew."
            )
        if not journal["shards"]:
            for path in partial.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            journal = {"identity": identity, "shards": {}}
        try:
            yield journal
        except BaseException:
            if partial.is_dir() and not _journal(partial)["shards"]:
                shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(handle)


def _journal(partial: Path) -> dict[str, Any]:
    """What is finished; nothing, where there is no journal or it is damaged."""
    try:
        found = json.loads((partial / _JOURNAL).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    whole = isinstance(found, dict) and isinstance(found.get("shards"), dict) and "identity" in found
    return found if whole else {"identity": "", "shards": {}}


def _note(partial: Path, journal: dict[str, Any], durable: bool) -> None:
    if durable:
        write_json(partial / _JOURNAL, journal)
    else:
        temporary = partial / f"{TEMPORARY}{_JOURNAL}"
        temporary.write_text(json.dumps(journal), encoding="utf-8")
        temporary.replace(partial / _JOURNAL)


def _is_finished(file: Path, journal: dict[str, Any], name: str, verify: bool) -> bool:
    facts = journal["shards"].get(name)
    if facts is None or not file.is_file() or file.stat().st_size != facts["bytes"]:
        return False
    if verify and not facts["sums"]:
        return False
    if verify:
        verify_shard(file, facts["sums"], False)
    return True


def _global_cuts(
    plan: Plan, engine: MergeEngine, partial: Path, journal: dict[str, Any], names: Sequence[str]
) -> Cuts | None:
    """Cuts over the whole model, from a pass of their own, kept for a resumed merge; None for those by tensor."""
    if plan.rule.cuts is None:
        return {}
    if plan.spec.trim == "tensor":
        return None
    if "cuts" in journal:
        return {
            target: [{name: Cut(*cut) for name, cut in model.items()} for model in models]
            for target, models in journal["cuts"].items()
        }
    cuts = engine.cuts(plan.targets)
    if len(names) > 1:
        journal["cuts"] = {
            target: [{name: (cut.value, cut.position) for name, cut in model.items()} for model in models]
            for target, models in cuts.items()
        }
    return cuts


def _write_index(partial: Path, plan: Plan, shards: Sequence[Sequence[Target]], names: Sequence[str]) -> None:
    weight_map = {target.name: name for name, shard in zip(names, shards, strict=True) for target in shard}
    index = {
        "metadata": {"total_size": plan.nbytes, "total_parameters": sum(target.numel for target in plan.targets)},
        "weight_map": dict(sorted(weight_map.items())),
    }
    (partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
