"""`stockpot.check`: what a run would do, before it does it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockpot.api.preparation import prepared
from stockpot.api.recipe_like import as_recipe, recipe_values, with_data
from stockpot.errors import StockpotError

if TYPE_CHECKING:
    from stockpot.api.recipe_like import RecipeLike
    from stockpot.checking.result import CheckResult
    from stockpot.recipe.schema import Recipe


def check(
    recipe: RecipeLike,
    overrides: Sequence[str] = (),
    *,
    n: int = 3,
    time: bool = False,
    images: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    data: Any = None,
    run_code: bool = False,
    run_code_unsandboxed: bool = False,
) -> CheckResult:
    """Reads and builds everything that a run would, and says what it would do; nothing is trained or written.

    It calls the functions that a run calls, so both agree: the same data, examples, steps and tokens. Mistakes are
    collected, not raised, as far as one does not hide the next.

    Args:
        recipe: the path of a recipe, a dict of what would be in it, or a Recipe. Code that it names is imported.
        overrides: `key.sub=value` each, values in YAML.
        n: the number of training examples of each task to show.
        time: run a few batches forward and backward, to estimate the time; weights stay as they are.
        images: write contact sheets of images after the processor into this folder, a PNG for each task.
        output: the run folder that a run would use, which must be free; default: none is looked at.
        data: data sets of `datasets` or PyTorch, as `stockpot.run` takes them.
        run_code: agree to run the programs that a model writes, in a sandbox (metric pass@k).
        run_code_unsandboxed: agree to run them even without a sandbox.

    Returns:
        Problems, guesses, and for each task its sizes, tokens, steps and first examples; `ok` if a run would start.
        `print` shows it in words.
    """
    with prepared(run_code, run_code_unsandboxed):
        from stockpot.checking.outcome import Problem
        from stockpot.checking.preview import check_recipe
        from stockpot.checking.result import CheckResult

        name = "the recipe" if not isinstance(recipe, str | os.PathLike) else str(recipe)
        mistakes: list[StockpotError] = []
        try:
            read: Recipe | None = with_data(as_recipe(recipe, overrides), data)
        except StockpotError as error:
            read, mistakes = _read_partly(recipe, overrides, name, error)
        if read is None:
            return CheckResult(name, [Problem("error", str(mistake)) for mistake in mistakes])
        return check_recipe(
            read,
            name,
            mistakes,
            shown=n,
            timed=time,
            pictures=None if images is None else Path(images),
            output=None if output is None else Path(output),
        )


def _read_partly(
    recipe: RecipeLike, overrides: Sequence[str], name: str, first: StockpotError
) -> tuple[Recipe | None, list[StockpotError]]:
    """What can be read of a recipe with mistakes, and all of them; `first` is what reading it raised."""
    from stockpot.recipe.mistakes import recipe_mistakes
    from stockpot.recipe.schema import Recipe
    from stockpot.yaml_text import read_yaml

    try:
        if isinstance(recipe, Recipe):
            values = recipe.model_dump(mode="json", exclude_unset=True)
        elif isinstance(recipe, Mapping):
            values = recipe_values(recipe)
        else:
            values = read_yaml(Path(recipe))
    except (StockpotError, TypeError):
        return None, [first]
    read, mistakes = recipe_mistakes(values, overrides, name)
    return read, list(mistakes) or [first]
