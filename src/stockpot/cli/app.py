"""The commands of `stockpot`, each declared in the file of its name; `main` runs one."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from stockpot.cli.add import add_command
from stockpot.cli.check import check_command
from stockpot.cli.compare import compare_command
from stockpot.cli.init import init_command
from stockpot.cli.inspect import inspect_command
from stockpot.cli.merge import merge_command
from stockpot.cli.methods import methods_command
from stockpot.cli.push import push_command
from stockpot.cli.report import report_command
from stockpot.cli.resume import resume_command
from stockpot.cli.rules import rules_command
from stockpot.cli.run import run_command
from stockpot.cli.schema import schema_command
from stockpot.cli.whatif import whatif_command
from stockpot.errors import StockpotError
from stockpot.garbage import seldom_collect
from stockpot.spelling import spelt_for_commands

app = typer.Typer(
    name="stockpot",
    help="Fine-tune one model on task after task, and keep what it already knows.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: stockpot init, then stockpot run recipe.yaml",
)
# In the order in which `stockpot --help` lists them.
app.command("check")(check_command)
app.command("run")(run_command)
app.command("add")(add_command)
app.command("resume")(resume_command)
app.command("compare")(compare_command)
app.command("report")(report_command)
app.command("whatif")(whatif_command)
app.command("push")(push_command)
app.command("merge")(merge_command)
app.command("rules")(rules_command)
app.command("methods")(methods_command)
app.command("init")(init_command)
app.command("schema")(schema_command)
app.command("inspect")(inspect_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"stockpot {version('stockpot')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    del version


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line. A user's mistake is one line on stderr and exit code 2."""
    from stockpot.cli.console import fail, give_up_output, prepare_streams

    seldom_collect()
    try:
        if not prepare_streams():
            raise StockpotError("the standard output is closed; send it somewhere, for example to /dev/null.")
        with spelt_for_commands():
            code: Any = app(args=arguments, standalone_mode=True)
    except StockpotError as error:
        fail(str(error))
        sys.exit(2)
    except RecursionError:
        fail("the input is nested too deeply.")
        sys.exit(2)
    except OSError as error:  # a path that cannot be read or written; without one, most often the output
        if error.filename is None:
            give_up_output()
        fail(f"{error.filename or 'the output, or a file, could not be written'}: {error.strerror or error}.")
        sys.exit(2)
    sys.exit(code)
