"""The commands of `stockpot`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from stockpot.errors import StockpotError

app = typer.Typer(
    name="stockpot",
    help="Fine-tune one model on task after task, and keep what it already knows.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: stockpot init, then stockpot run recipe.yaml",
)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="a recipe: `stockpot init` writes one")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="default: runs/NAME")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY.SUB=VALUE", help="change the recipe: method.beta=0.5")
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="import the code that a `build:` model in the folder names")
]


def _run_code(agreed: bool) -> None:
    if agreed:
        from stockpot.evaluation.consent import consent

        consent()


def _run_code_unsandboxed(agreed: bool) -> None:
    if agreed:
        from stockpot.evaluation.consent import consent_unsandboxed

        consent_unsandboxed()


# Both are noted by their callbacks.
RunCode = Annotated[
    bool,
    typer.Option(
        "--run-code", callback=_run_code, help="agree to run, in a sandbox, what a model writes (metric pass@k)"
    ),
]
RunCodeUnsandboxed = Annotated[
    bool,
    typer.Option(
        "--run-code-unsandboxed",
        callback=_run_code_unsandboxed,
        help="agree to run it even where there is no sandbox: it can then do what you can do here, such as read, "
        "change and delete your files, stop your processes, read your tokens and use the network",
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"stockpot {version('stockpot')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and leave")
    ] = False,
) -> None:
    del version


@app.command()
def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    output: Output = None,
    run_code: RunCode = False,
    run_code_unsandboxed: RunCodeUnsandboxed = False,
) -> None:
    """Fine-tune on the recipe's stream of tasks with one method; leaves a run folder."""
    from stockpot.cli import work

    work.run(recipe, overrides or [], output)


@app.command()
def add(
    folder: Run,
    task: Annotated[Path, typer.Argument(metavar="TASK", help="one entry of `tasks`, in a file of its own")],
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="NEW", help="branch: leave RUN as it is, go on in NEW")
    ] = None,
    allow_code: AllowCode = False,
    run_code: RunCode = False,
    run_code_unsandboxed: RunCodeUnsandboxed = False,
) -> None:
    """Learn the next task, on top of a finished run."""
    from stockpot.cli import work

    work.add(folder, task, overrides or [], output, allow_code)


@app.command()
def resume(
    folder: Run,
    allow_code: AllowCode = False,
    run_code: RunCode = False,
    run_code_unsandboxed: RunCodeUnsandboxed = False,
) -> None:
    """Go on with a run that was interrupted, from wherever it stopped."""
    from stockpot.cli import work

    work.resume(folder, allow_code)


@app.command()
def compare(
    recipe: RecipeFile,
    overrides: Overrides = None,
    output: Output = None,
    methods: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="labels of the recipe's `compare`, or names of methods")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="so many, the recipe's first")] = None,
    orders: Annotated[int | None, typer.Option(min=1, help="so many orders of the tasks, as written first")] = None,
    tune: Annotated[
        int | None,
        typer.Option(min=1, metavar="TRIALS", help="choose parameters first, by so many trials for each"),
    ] = None,
    search: Annotated[str | None, typer.Option(metavar="grid|random|optuna", help="how trials are chosen")] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="90s, 30m, 2h: no new round of trials begins later")
    ] = None,
    pareto: Annotated[
        int | None, typer.Option(min=2, metavar="POINTS", help="every method at so many strengths: past against new")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="so many runs at a time")] = 1,
    engine: Annotated[str | None, typer.Option(metavar="processes|ray", help="where runs run")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="this share of the runs only")] = None,
    run_code: RunCode = False,
    run_code_unsandboxed: RunCodeUnsandboxed = False,
) -> None:
    """Run the methods of `compare` beside plain fine-tuning and joint training, over all seeds; goes on if stopped."""
    from stockpot.cli import compare as work

    asked = work.Asked(methods, seeds, orders, tune, search, budget, pareto, jobs, engine, shard)
    work.compare(recipe, overrides or [], output, asked)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders, or a comparison's")],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="default: the folder")] = None,
) -> None:
    """Write report.html and its figures again, for one run, several, or a comparison."""
    from stockpot.cli import work

    work.report(folders, output)


@app.command()
def whatif(
    folder: Run,
    methods: Annotated[
        str | None, typer.Option("--methods", metavar="A,B", help="default: wise_ft,task_arithmetic,ties,soup,magmax")
    ] = None,
    points: Annotated[int, typer.Option("--points", min=2, max=1001, help="values of each method's strength")] = 11,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="default: RUN/whatif")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="default: one a core")] = None,
    allow_code: AllowCode = False,
    run_code: RunCode = False,
    run_code_unsandboxed: RunCodeUnsandboxed = False,
) -> None:
    """Say what merging would have made of a finished run of `sequential`, at every strength; trains nothing."""
    from stockpot.cli import whatif as work

    work.whatif(folder, methods, points, output, threads, allow_code)


@app.command()
def merge(
    what: Annotated[str, typer.Argument(metavar="RULE|CONFIG.yaml", help="`stockpot rules` says which there are")],
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL...]", help="folders, files, adapters or names of the hub")
    ] = None,
    base: Annotated[str | None, typer.Option("--base", "-b", metavar="MODEL", help="what they were tuned from")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="default: merged/RULE")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="a parameter: v for all, v,w for each, a list in brackets over depth"
        ),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="of the output: bfloat16, float32…; default: the first's")] = None,
    trim: Annotated[str | None, typer.Option(help="count the largest over the whole `model`, or each `tensor`")] = None,
    on_missing: Annotated[str | None, typer.Option(help="tensors that do not fit: error, base or skip")] = None,
    seed: Annotated[int | None, typer.Option(help="of the random masks")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be read and written")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on with a merge that was interrupted")] = False,
    max_shard_size: Annotated[str, typer.Option(help="of an output file")] = "5GB",
    threads: Annotated[int | None, typer.Option(min=1, help="default: one for each processor, up to 8")] = None,
    verify: Annotated[bool, typer.Option(help="read what was written again")] = True,
    sync: Annotated[bool, typer.Option(help="wait until it is on the disk")] = True,
    hash_files: Annotated[bool, typer.Option("--hash", help="record the inputs' full SHA-256")] = False,
    allow_bin: Annotated[bool, typer.Option("--allow-bin", help="read pickles, their tensors alone")] = False,
    allow_nonfinite: Annotated[bool, typer.Option("--allow-nonfinite", help="write NaN and infinity")] = False,
    as_adapter: Annotated[bool, typer.Option("--as-adapter", help="adapters in, an adapter out")] = False,
    rank: Annotated[int | None, typer.Option(min=1, help="of that adapter; default: the sum of the ranks")] = None,
    score: Annotated[
        str | None, typer.Option(help='greedy_soup: a command that prints a score, with "{model}"')
    ] = None,
) -> None:
    """Merge checkpoints on disk: averages, task arithmetic, TIES, DARE, SLERP and more."""
    from stockpot.cli import merging as work
    from stockpot.merging.options import Options
    from stockpot.merging.spec.arguments import one_of

    changes = {
        "dtype": dtype,
        "trim": trim and one_of("--trim", trim, ("model", "tensor")),
        "on_missing": on_missing and one_of("--on-missing", on_missing, ("error", "base", "skip")),
        "seed": seed,
    }
    options = Options(
        max_shard_size, threads, allow_bin, allow_nonfinite, verify, sync, resume, hash_files, as_adapter, rank
    )
    work.merge(what, models or [], base, output, settings or [], options, changes, dry_run, score)


@app.command()
def rules(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="one rule; default: all of them")] = None,
) -> None:
    """Say what merge rules there are: equation, models, parameters."""
    from stockpot.cli.merging import describe_rules

    describe_rules(name)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="one method; default: all of them")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="all of them as a page, docs/methods.md")] = False,
) -> None:
    """Say what methods there are: equation, parameters, defaults."""
    from stockpot.cli.describe import describe_methods, print_methods_page

    if markdown:
        print_methods_page()
    else:
        describe_methods(name)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="[FILE]", help="where to write it")] = Path("recipe.yaml"),
) -> None:
    """Write a commented starter recipe."""
    from stockpot.cli.describe import write_starter

    write_starter(path)


@app.command()
def schema(
    what: Annotated[str, typer.Argument(metavar="[recipe|task|results|comparison|whatif]")] = "recipe",
) -> None:
    """Print a JSON schema: of recipes and tasks for editors, of results for programs."""
    from stockpot.cli.describe import print_schema

    print_schema(what)


@app.command("inspect")
def inspect_checkpoint(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="folders, .safetensors files, adapters")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE|FOLDER", help="of two: draw distance and cosine by depth"),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="every tensor on a line of its own")] = False,
    ties: Annotated[bool, typer.Option("--ties", help="of one: find equal tensors; reads bytes")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the facts for programs")] = False,
    allow_bin: Annotated[bool, typer.Option("--allow-bin", help="load the tensors of .bin files")] = False,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="default: one a core, at most 8")] = None,
) -> None:
    """Say what a checkpoint holds, from its headers; of two, how far apart their tensors are."""
    from stockpot.cli.inspect_checkpoint import inspect

    inspect(paths, output, every, ties, as_json, allow_bin, threads)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line. A user's mistake is one line on stderr and exit code 2."""
    from stockpot.cli.console import fail, give_up_output, prepare_streams

    try:
        if not prepare_streams():
            raise StockpotError("the standard output is closed; send it somewhere, to /dev/null for example.")
        code: Any = app(args=arguments, standalone_mode=True)
    except StockpotError as error:
        fail(str(error))
        sys.exit(2)
    except RecursionError:
        fail("something that was read is nested too deeply.")
        sys.exit(2)
    except OSError as error:  # a path that cannot be read or written; without one, most often the output
        if error.filename is None:
            give_up_output()
        fail(f"{error.filename or 'the output, or a file, could not be written'}: {error.strerror or error}.")
        sys.exit(2)
    sys.exit(code)
