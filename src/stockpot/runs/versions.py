"""Which software produced a result."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("stockpot", "torch", "transformers", "accelerate", "datasets", "safetensors", "numpy")


def versions() -> dict[str, str]:
    """Python's, the machine's and the packages' versions."""
    names = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            names[package] = version(package)
        except PackageNotFoundError:
            names[package] = "not installed as a package"
    return names


def commit() -> str | None:
    """The commit of Stockpot's checkout; None where it does not run from one."""
    here = Path(__file__).resolve().parents[3]
    if not (here / ".git").exists():
        return None
    try:
        output = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return output.stdout.strip() or None
