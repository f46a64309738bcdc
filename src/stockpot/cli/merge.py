"""`stockpot merge`: its arguments; `merging` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stockpot.cli.arguments import Threads


def merge_command(
    what: Annotated[str, typer.Argument(metavar="RULE|CONFIG.yaml", help="`stockpot rules` lists the rules")],
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL...]", help="folders, files, adapters or names on the hub")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", "-b", metavar="MODEL", help="what the models were tuned from")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="default: merged/RULE")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="a parameter: v for all, v,w for each, a list in brackets over depth"
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="of the output: bfloat16, float32…; default: the first model's")
    ] = None,
    trim: Annotated[str | None, typer.Option(help="count the largest over the whole `model`, or each `tensor`")] = None,
    on_missing: Annotated[str | None, typer.Option(help="tensors that do not fit: error, base or skip")] = None,
    seed: Annotated[int | None, typer.Option(help="of the random masks")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only print what would be read and written")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="continue an interrupted merge")] = False,
    max_shard_size: Annotated[str, typer.Option(help="of an output file")] = "5GB",
    threads: Threads = None,
    verify: Annotated[bool, typer.Option(help="read back what was written")] = True,
    sync: Annotated[bool, typer.Option(help="wait until it is on the disk")] = True,
    hash_files: Annotated[bool, typer.Option("--hash", help="record the full SHA-256 of the inputs")] = False,
    allow_bin: Annotated[bool, typer.Option("--allow-bin", help="read the tensors of pickles, nothing else")] = False,
    allow_nonfinite: Annotated[bool, typer.Option("--allow-nonfinite", help="write NaN and infinity")] = False,
    as_adapter: Annotated[bool, typer.Option("--as-adapter", help="adapters in, an adapter out")] = False,
    rank: Annotated[int | None, typer.Option(min=1, help="of that adapter; default: the sum of the ranks")] = None,
    score: Annotated[
        str | None, typer.Option(help='greedy_soup: a command that prints a score, with "{model}"')
    ] = None,
) -> None:
    """Merge checkpoints on disk: averages, task arithmetic, TIES, DARE, SLERP and more."""
    from stockpot.cli.merging import merge_checkpoints
    from stockpot.merging.options import Options
    from stockpot.merging.spec.spec_values import one_of

    changes = {
        "dtype": dtype,
        "trim": trim and one_of("--trim", trim, ("model", "tensor")),
        "on_missing": on_missing and one_of("--on-missing", on_missing, ("error", "base", "skip")),
        "seed": seed,
    }
    options = Options(
        max_shard_size, threads, allow_bin, allow_nonfinite, verify, sync, resume, hash_files, as_adapter, rank
    )
    merge_checkpoints(what, models or [], base, output, settings or [], options, changes, dry_run, score)
