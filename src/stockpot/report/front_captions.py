"""What is written under the figures of the front: only what they show."""

from __future__ import annotations

from stockpot.report.formatting import bytes_text, design_of_all, reference
from stockpot.report.front_facts import controls, curves, undominated
from stockpot.report.front_figures import FEW_LINES, most_bytes_held
from stockpot.results import Comparison


def of_all(comparison: Comparison) -> str:
    """Under the figure of all methods."""
    many = len(curves(comparison)) > FEW_LINES
    named = "; methods on the Pareto front are named" if many else ", of which the ends are written"
    tied = "; filled marks, tied by dashes, are on the Pareto front" if undominated(comparison) else ""
    found = [
        "Up and right is better.",
        f"A line runs through a method's strengths in order of value{named}{tied}.",
        *_sizes(comparison),
        *_beside(comparison),
        f"Means over {design_of_all(comparison)}.",
    ]
    return " ".join(found)


def of_each(comparison: Comparison) -> str:
    """Under the panels, one a method."""
    found = ["The same with each method before the others; the values at its ends are written.", *_sizes(comparison)]
    return " ".join(found)


def _sizes(comparison: Comparison) -> list[str]:
    """What areas say: of marks only where plain fine-tuning's time is known, of discs only where there are bytes."""
    base, most = reference(comparison), most_bytes_held(comparison)
    found = []
    if base is not None and comparison.methods[base].training_seconds.mean:
        found.append("The area of a mark is its training time, relative to plain fine-tuning's.")
    if most:
        found.append(
            "The area of the pale disc behind a mark is the extra memory while training and what is stored between "
            f"tasks, at most {bytes_text(most)}."
        )
    return found


def _beside(comparison: Comparison) -> list[str]:
    found = [
        "Beside it, from least to most over the strengths: hollow, the extra memory while training; filled, what is "
        "stored between tasks, with its name."
    ]
    base = reference(comparison)
    for name in controls(comparison)[:1]:
        plain = "; dashed: plain fine-tuning" if base and name in comparison.methods[base].controls else ""
        found.append(
            f"On the right, how {name}, never trained on, changed since the start at every strength{plain}; below zero "
            "is worse."
        )
    return found
