r"""A table in LaTeX that a paper takes as it is, with the package booktabs; every name escaped."""

from __future__ import annotations

import re

from stockpot.report.export_tables import ExportTable
from stockpot.report.formatting import MISSING

_APART = "\u200b"  # between two hyphens, which would become a dash
# What LaTeX reads as something else; brackets and the star would be options of the `\\` before them.
_ESCAPED = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\symbol{34}", "`": "{`}",
    "[": "{[}", "]": "{]}", "*": "{*}", _APART: "{}", MISSING: "---",
    "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "≤": r"$\le$", "≥": r"$\ge$", "≠": r"$\ne$",
    "≈": r"$\approx$", "→": r"$\to$", "←": r"$\leftarrow$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "∞": r"$\infty$",
    "…": r"\dots{}", "–": "--", "\u00a0": "~",
}  # fmt: skip
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "ζ": "zeta", "η": "eta", "θ": "theta",
    "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma",
    "τ": "tau", "υ": "upsilon", "φ": "varphi", "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta",
    "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma", "Υ": "Upsilon", "Φ": "Phi", "Ψ": "Psi",
    "Ω": "Omega",
}  # fmt: skip
_ONE_NUMBER = r"[+−]?\d[\d,]*(?:\.\d*)?(?:e[+−-]?\d+)?"
_NUMBER = re.compile(rf"{_ONE_NUMBER}(?: ± {_ONE_NUMBER})?")


def escape_latex(text: str) -> str:
    """The text on one line, escaped so that LaTeX prints it as it is; letters of other scripts stay."""
    line = "".join(c if c.isprintable() or c == "\u00a0" else " " for c in text).strip(" ")
    line = re.sub(r"-(?=-)", f"-{_APART}", re.sub(" +", " ", line))
    return "".join(map(_escaped_letter, line))


def _escaped_letter(letter: str) -> str:
    return rf"$\{_GREEK[letter]}$" if letter in _GREEK else _ESCAPED.get(letter, letter)


def latex_number(cell: str, bold: bool = False) -> str:
    """A cell: a number with its interval in mathematics, anything else escaped."""
    if not _NUMBER.fullmatch(cell):
        text = escape_latex(cell)
        return rf"\textbf{{{text}}}" if bold else text
    number = re.sub(r"e([+−-]?)0*(\d+)", lambda m: rf"\times 10^{{{m[1].strip('+')}{m[2]}}}", cell)
    number = number.replace("−", "-").replace(",", "{,}").replace("±", r"\pm")
    return rf"$\mathbf{{{number}}}$" if bold else f"${number}$"


def latex_table(table: ExportTable, label: str) -> str:
    r"""The table as an environment `table`, its `\label` made of `label`."""
    grid = table.grid
    lines = [" & ".join(map(escape_latex, [grid.corner, *grid.headings]))]
    for row, (name, cells) in enumerate(grid.rows):
        written = [latex_number(cell, (row, column) in table.bold) for column, cell in enumerate(cells)]
        lines.append(" & ".join([escape_latex(name), *written]))
    head, *body = (rf"    {line} \\" for line in lines)
    return "\n".join([
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape_latex(grid.caption)}}}",
        rf"  \label{{tab:{_slug(label)}}}",
        rf"  \begin{{tabular}}{{l{'r' * len(grid.headings)}}}",
        r"    \toprule",
        head,
        r"    \midrule",
        *body,
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]) + "\n"  # fmt: skip


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "results"
