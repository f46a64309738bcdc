"""The command line: parse, call, print. Heavy imports happen inside the commands, so that `--help` is fast."""

from stockpot.cli.app import main

__all__ = ["main"]
