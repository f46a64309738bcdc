"""`stockpot push`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from stockpot.api.launchers import refuse_launchers
from stockpot.cli.arguments import RunArgument
from stockpot.cli.console import say, show
from stockpot.cli.json_document import Json, one_document


def push_command(
    run: RunArgument,
    repo_id: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="a repository on the Hugging Face Hub")],
    after: Annotated[
        str | None, typer.Option("--after", metavar="TASK", help="a task, or start; default: the newest task learnt")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="make the repository private")] = False,
    revision: Annotated[str | None, typer.Option("--revision", metavar="BRANCH", help="default: main")] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", metavar="TEXT", help="of the commit")] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="open a pull request to a repository that exists")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="OWNER/NAME", help="what the adapter sits on, or the run started from"),
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", metavar="NAME", help="apache-2.0, mit, …; default: that of the base")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check and list what would go up, and upload nothing")
    ] = False,
    as_json: Json = False,
) -> None:
    """Upload a run's model to the Hugging Face Hub, with its card; checks first that nothing else goes up."""
    refuse_launchers()
    from rich.table import Table

    from stockpot.api.pushing import push
    from stockpot.printing import counted, human_bytes

    with one_document(as_json) as hand_over:
        done = push(
            run,
            repo_id,
            after=after,
            private=private,
            revision=revision,
            commit_message=message,
            create_pr=create_pr,
            base=base,
            licence=licence,
            dry_run=dry_run,
        )
        table = Table("file", "size")
        for name, size in done.files.items():
            table.add_row(name, human_bytes(size))
        show(table)
        for name in done.left_out:
            say(f"Note: {name} stays here: hidden files do not go up.")
        files = f"{counted(len(done.files), 'file')}, {human_bytes(done.total_bytes)}"
        if done.url is None:
            say(f'{files} would go to {done.repo_id} as "{done.commit_message}". Nothing was uploaded.')
        else:
            say(f'{files} went to {done.repo_id} as "{done.commit_message}".')
            say(f"Model:  {done.url}")
        hand_over({**asdict(done), "total_bytes": done.total_bytes})
