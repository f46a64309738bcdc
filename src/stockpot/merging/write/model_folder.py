"""A merge into a folder: written under a temporary name, verified, synced, renamed; finished files can be resumed."""

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

_JOURNAL = ".merge.json"  # hidden, so that no file that is copied from a model can have this name


def refuse_output(output: Path, inputs: Sequence[Path]) -> None:
    """Raises StockpotError if the output is, contains or lies in an input, or if it exists and is not empty."""
    if output.name in ("", ".."):
        raise StockpotError(f"'{output}' cannot be the output: name a new folder.")
    with explaining_disk_errors(output):
        if output.is_symlink():
            raise StockpotError(f"{output} is a link; name another folder, or delete it first.")
        target = output.resolve()
        for path in inputs:
            other = path.resolve()
            if target == other or target in other.parents or (other.is_dir() and other in target.parents):
                raise StockpotError(f"{output}: the output would overwrite the input {path}; name another folder.")
        if output.exists() and not (output.is_dir() and not any(output.iterdir())):
            raise StockpotError(f"{output} already exists; name another folder, or delete it first.")


def partial_folder(output: Path) -> Path:
    """The folder that a merge into `output` is written to until it is complete."""
    return output.with_name(f"{TEMPORARY}merge-{output.name}")


def resume_hint(output: Path) -> str:
    """What to do after a merge into `output` was interrupted: resume from its finished files, or start again."""
    count = len(_read_journal(partial_folder(output))["shards"])
    if not count:
        return "nothing was kept: run the same command again."
    files = "1 finished file was" if count == 1 else f"{count:,} finished files were"
    return f"{files} kept: run the same command with --resume to continue."


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

    `identity` identifies the merge: `resume` continues only the same one. `finish` writes the files next to the
    weights. Nothing appears at `output` before everything is written, verified and (`durable`) synced.
    """
    partial = partial_folder(output)
    with (
        explaining_disk_errors(output, lambda: f"free some space; {resume_hint(output)}"),
        _locked_journal(partial, output, identity, resume) as journal,
    ):
        shards = split_into_shards(plan.targets, largest)
        names = file_names(len(shards))
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
                _write_journal(partial, journal, durable)
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
def _locked_journal(partial: Path, output: Path, identity: str, resume: bool) -> Iterator[dict[str, Any]]:
    """Locks the partial folder and yields its journal; after an error, keeps the folder only if a shard is finished."""
    make_folder(output.parent)
    if resume and not partial.is_dir():
        raise StockpotError(f"{output}: there is no unfinished merge to resume; leave --resume out.")
    if partial.is_symlink():
        raise StockpotError(f"{partial} is a link: delete it.")
    partial.mkdir(exist_ok=True)
    handle = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StockpotError(f"{output}: another process is merging into it.") from error
        journal = _read_journal(partial)
        if journal["shards"] and not resume:
            raise StockpotError(
                f"{partial} holds {len(journal['shards'])} finished files of an interrupted merge: "
                "continue with --resume, or delete it."
            )
        if journal["shards"] and journal["identity"] != identity:
            raise StockpotError(
                f"{partial} belongs to another merge, or its inputs have changed: delete it and start again."
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
            if partial.is_dir() and not _read_journal(partial)["shards"]:
                shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(handle)


def _read_journal(partial: Path) -> dict[str, Any]:
    """The finished files; none if there is no journal or it is damaged."""
    try:
        journal = json.loads((partial / _JOURNAL).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        journal = None
    valid = isinstance(journal, dict) and isinstance(journal.get("shards"), dict) and "identity" in journal
    return journal if valid else {"identity": "", "shards": {}}


def _write_journal(partial: Path, journal: dict[str, Any], durable: bool) -> None:
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
    """Cuts over the whole model, from a separate pass, stored for a resumed merge; None if they are by tensor."""
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
