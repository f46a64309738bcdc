"""`--json`: the numbers are one document on stdout, and nothing else is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from stockpot.cli.console import say

Json = Annotated[
    bool, typer.Option("--json", help="print the numbers as one JSON document; what is said goes to stderr")
]


@contextlib.contextmanager
def one_document(wanted: bool) -> Iterator[Callable[[Any], None]]:
    """Where it is wanted, what the block prints goes to stderr, and the document that it hands over to stdout.

    A document is a pydantic model or plain values. A block that raises has none.
    """
    documents: list[Any] = []
    with contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext():
        yield documents.append
    if wanted:
        from stockpot.files import json_text

        for document in documents:
            values = document.model_dump(mode="json") if hasattr(document, "model_dump") else document
            say(json_text(values).removesuffix("\n"))
