"""Arguments and options that several commands share, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="a recipe; `stockpot init` writes one")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="default: runs/NAME")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY.SUB=VALUE", help="change the recipe: method.beta=0.5")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="default: one per core, at most 8")]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="import the Python code that the folder's `build:` model names")
]
RunCode = Annotated[
    bool, typer.Option("--run-code", help="agree to run the programs that a model writes, in a sandbox (metric pass@k)")
]
RunCodeUnsandboxed = Annotated[
    bool,
    typer.Option(
        "--run-code-unsandboxed",
        help="agree to run them even without a sandbox: they can then do whatever you can do here, such as read, "
        "change and delete your files, stop your processes, read your tokens and use the network",
    ),
]
