"""The model card: README.md of a model folder, with the scores as metadata that model hubs read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stockpot.markdown import code_span, escape_markdown, markdown_table
from stockpot.printing import counted
from stockpot.report.card_usage import HERE, KINDS, usage
from stockpot.report.findings import run_summary
from stockpot.report.formatting import score, title
from stockpot.report.method_costs import cost_rows
from stockpot.report.tables import metric_rows, score_rows
from stockpot.results import Results

MAX_HEAD_ROWS = 100


def model_card(
    results: Results,
    base_model: str | None,
    datasets: list[str],
    licence: Mapping[str, str] | None,
    *,
    place: str = HERE,
    adapter: bool | None = None,
    chats: bool = False,
) -> str:
    """The card's text: YAML metadata, then what was learnt, how well, at what cost, and how to use it.

    Args:
        results: of the run, up to the task that the model learnt last.
        base_model: its name on the hub; None: unknown, and left out.
        datasets: their names on the hub.
        licence: the keys of a card's metadata that say it: license, license_name, license_link.
        place: the model's name on the hub, or its folder, for the example.
        adapter: whether it is one; default: what the run's tasks leave.
        chats: whether its tokenizer has a chat template.

    Returns:
        README.md.
    """
    from huggingface_hub import ModelCard, ModelCardData

    kind = KINDS[_kind(results)][0]
    model = results.recipe.get("model") or {}
    adapter = (model.get("lora") or {}).get("output") == "adapter" if adapter is None else adapter
    library = None if model.get("build") else "peft" if adapter else "transformers"
    measured = eval_results(results, kind, datasets)
    metadata: dict[str, Any] = {
        "base_model": base_model,
        "datasets": list(dict.fromkeys(datasets)) or None,
        **(licence or {}),
        "library_name": library,
        "pipeline_tag": library and kind,
        "tags": ["stockpot", "continual-learning", str(results.method.get("name", results.label))],
    }
    if library == "peft":
        metadata["tags"].append("lora")
    if measured:
        metadata |= {
            "metrics": list(dict.fromkeys(result.metric_type for result in measured)),
            "model_name": results.label,
            "eval_results": measured,
        }
    data, how = ModelCardData(**metadata), _usage(results, library, place, chats)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_body(results, how)}"))


def eval_results(results: Results, task_type: str, datasets: Sequence[str]) -> list[Any]:
    """The last row of every score, in the schema of the hub's `model-index`: one result for each task and score."""
    from huggingface_hub import EvalResult

    tasks = results.recipe.get("tasks") or []
    blocks = [(task.get("data") or {}) if isinstance(task, Mapping) else {} for task in tasks]
    blocks += [{}] * (len(results.tasks) - len(blocks))

    def origin(j: int) -> str:
        if blocks[j].get("path") in datasets:
            return str(blocks[j]["path"])
        return datasets[0] if len(set(datasets)) == 1 else _slug(results.tasks[j])

    return [
        EvalResult(
            task_type=task_type,
            task_name=f"{results.tasks[j]}, after {len(scores.matrix)} of {len(results.tasks)} tasks",
            dataset_type=origin(j),
            dataset_name=results.tasks[j],
            dataset_config=f"{j + 1:02d}-{_slug(results.tasks[j])}",  # tasks may be classes of one data set
            dataset_split=blocks[j].get("test_split"),
            metric_type=name,
            metric_name=f"{name}, {scores.unit}: {'higher' if scores.higher_is_better else 'lower'} is better",
            metric_value=round(value, 6),
        )
        for name, scores in results.scores.items()
        for j, value in enumerate(scores.matrix[-1] if scores.matrix else [])
        if value is not None
    ]


def _body(results: Results, how: Sequence[str]) -> str:
    learnt = counted(len(results.scores[results.primary].matrix), "task")
    parts = [
        f"# {escape_markdown(title(results.label))}: {learnt}, one after the other",
        "\n".join(escape_markdown(sentence) for sentence in run_summary(results)),
        "## How to use it",
        *how,
        f"## Scores\n\nOn every task, after every task; seed {results.seed}.",
        *(part for name in dict.fromkeys((results.primary, *results.scores)) for part in _matrix(name, results)),
        markdown_table(["metric", "value", "what it is"], [list(row) for row in metric_rows(results)]),
        "## How it was trained",
        f"Scenario `{code_span(results.scenario)}`, method `{code_span(_without_folders(results.method))}`.",
        markdown_table(["cost", "whole stream"], [[name, *values] for name, values in cost_rows([results.costs])]),
    ]
    if results.notes:
        parts.append("\n".join(f"- {escape_markdown(note)}" for note in results.notes))
    if any(results.head.values()):
        rows = [[task, ", ".join(classes)] for task, classes in results.head.items()]
        if sum(map(len, results.head.values())) <= MAX_HEAD_ROWS:
            parts.append(markdown_table(["task", "classes of its output rows, in row order"], rows))
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    parts.append(f"Made with {escape_markdown(versions)}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _usage(results: Results, library: str | None, place: str, chats: bool) -> list[str]:
    if library is None:
        return ["The weights are `model.safetensors`; the model itself is built by the code that the recipe names."]
    code = usage(_kind(results), results.recipe, place, library == "peft", chats)
    about = (
        "This is a LoRA adapter (`pip install peft`); `base_model_name_or_path` in `adapter_config.json` names the "
        "model that it belongs to."
    )
    return [*([about] if library == "peft" else []), f"```python\n{code}\n```"]


def _without_folders(method: Mapping[str, Any]) -> dict[str, Any]:
    """The method's settings; of files only the names, since where they are concerns nobody else."""
    return {
        key: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for key, value in method.items()
    }


def _matrix(name: str, results: Results) -> list[str]:
    """One score's name, unit and direction, and its matrix, the controls beside the tasks."""
    scores = results.scores[name]
    better = "higher" if scores.higher_is_better else "lower"
    rows = [
        [f"{i} {stage}" if i else stage, *(score(value, scores.unit) for value in values)]
        for i, (stage, values) in enumerate(score_rows(results, name))
    ]
    heads = ["after, on", *results.tasks, *(f"({control})" for control in scores.controls)]
    title = f"**{escape_markdown(name)}**, {escape_markdown(scores.unit)}: {better} is better."
    return [title, markdown_table(heads, rows)]


def _kind(results: Results) -> str:
    """The kind of model: image, text or language, as in `Recipe.kind`; answers, of a language model with a decoder."""
    data = [results.recipe.get("data") or {}, *(task.get("data") or {} for task in results.recipe.get("tasks") or [])]
    if results.scenario == "language":
        return "answers" if any(facts.get("answered") for facts in results.data.values()) else "language"
    return "text" if any(block.get("text") for block in data) else "image"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "task"
