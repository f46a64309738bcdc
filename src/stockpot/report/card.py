"""The model card: README.md of a model folder, with the scores as metadata that model hubs read."""

from __future__ import annotations

import re
from typing import Any

from stockpot.markdown import code_span, escape_markdown, markdown_table
from stockpot.printing import counted
from stockpot.report.findings import run_summary
from stockpot.report.formatting import score, title
from stockpot.report.method_costs import cost_rows
from stockpot.report.tables import metric_rows, score_rows
from stockpot.results import Results

MAX_HEAD_ROWS = 100
# For each kind of model: what hubs call its work, and Transformers' class for it.
KINDS = {
    "image": ("image-classification", "AutoModelForImageClassification"),
    "text": ("text-classification", "AutoModelForSequenceClassification"),
    "language": ("text-generation", "AutoModelForCausalLM"),
}


def model_card(results: Results, base_model: str | None, datasets: list[str], licence: str | None) -> str:
    """The card's text: YAML metadata, then what was learnt, how well, at what cost, and how to load it.

    `base_model`, `datasets` and `licence` are names on the hub; what is unknown is left out of the metadata.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    kind = KINDS[_kind(results)][0]
    model = results.recipe.get("model") or {}
    library = None if model.get("build") else "peft" if _adapter(results) else "transformers"
    measured = [
        EvalResult(
            task_type=kind,
            task_name=f"{results.tasks[j]}, after {len(scores.matrix)} of {len(results.tasks)} tasks",
            dataset_type=datasets[0] if len(datasets) == 1 else _slug(results.tasks[j]),
            dataset_name=results.tasks[j],
            dataset_config=f"{j + 1:02d}-{_slug(results.tasks[j])}",
            metric_type=name,
            metric_value=round(value, 6),
        )
        for name, scores in results.scores.items()
        for j, value in enumerate(scores.matrix[-1] if scores.matrix else [])
        if value is not None
    ]
    metadata: dict[str, Any] = {
        "base_model": base_model,
        "datasets": list(dict.fromkeys(datasets)) or None,
        "license": licence,
        "library_name": library,
        "pipeline_tag": library and kind,
        "tags": ["stockpot", "continual-learning", str(results.method.get("name", results.label))],
    }
    if measured:
        metadata |= {
            "metrics": list(dict.fromkeys(result.metric_type for result in measured)),
            "model_name": results.label,
            "eval_results": measured,
        }
    data = ModelCardData(**metadata)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_body(results, built=library is None)}"))


def _body(results: Results, built: bool) -> str:
    learnt = counted(len(results.scores[results.primary].matrix), "task")
    parts = [
        f"# {escape_markdown(title(results.label))}: {learnt}, one after the other",
        "\n".join(escape_markdown(sentence) for sentence in run_summary(results)),
        f"## Scores\n\nOn every task, after every task; seed {results.seed}.",
        *(part for name in dict.fromkeys((results.primary, *results.scores)) for part in _matrix(name, results)),
        markdown_table(["metric", "value", "what it is"], [list(row) for row in metric_rows(results)]),
        "## How it was trained",
        f"Scenario `{code_span(results.scenario)}`, method `{code_span(results.method)}`.",
        markdown_table(["cost", "whole stream"], [[name, *values] for name, values in cost_rows([results.costs])]),
    ]
    if results.notes:
        parts.append("\n".join(f"- {escape_markdown(note)}" for note in results.notes))
    parts.append("## How to use it")
    if built:
        parts.append(
            "The weights are `model.safetensors`; the model itself is built by the code that the recipe names."
        )
    else:
        kind = _kind(results)
        names = [KINDS[kind][1], *([] if kind == "image" else ["AutoTokenizer"])]
        made = [
            f"{name} = {auto}.from_pretrained(folder)"
            for name, auto in zip(("model", "tokenizer"), names, strict=False)
        ]
        lines = [f"from transformers import {', '.join(names)}", "", "folder = 'PATH/OF/THIS/FOLDER'", *made]
        if kind == "language":
            lines += [
                "tokens = tokenizer('Once', return_tensors='pt').input_ids",
                "print(tokenizer.decode(model.generate(tokens, max_new_tokens=50)[0]))",
            ]
        if _adapter(results):
            parts.append(
                "This is a PEFT adapter (`pip install peft`): `base_model_name_or_path` in `adapter_config.json` "
                "says which model it belongs to; change it if that folder moves."
            )
        parts.append("```python\n" + "\n".join(lines) + "\n```")
    if any(results.head.values()):
        rows = [[task, ", ".join(classes)] for task, classes in results.head.items()]
        if sum(map(len, results.head.values())) <= MAX_HEAD_ROWS:
            parts.append(markdown_table(["task", "classes of its output rows, in row order"], rows))
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    parts.append(f"Made with {escape_markdown(versions)}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _matrix(name: str, results: Results) -> list[str]:
    """One score's name, unit and direction, and its matrix, the controls beside the tasks."""
    scores = results.scores[name]
    better = "higher" if scores.higher_is_better else "lower"
    rows = [
        [f"{i} {stage}" if i else "before the stream", *(score(value, scores.unit) for value in values)]
        for i, (stage, values) in enumerate(score_rows(results, name))
    ]
    heads = ["after, on", *results.tasks, *(f"({control})" for control in scores.controls)]
    title = f"**{escape_markdown(name)}**, {escape_markdown(scores.unit)}: {better} is better."
    return [title, markdown_table(heads, rows)]


def _adapter(results: Results) -> bool:
    """Whether the folder holds an adapter instead of a model."""
    lora = (results.recipe.get("model") or {}).get("lora") or {}
    return bool(lora.get("output") == "adapter")


def _kind(results: Results) -> str:
    """The kind of model: image, text or language, as in `Recipe.kind`."""
    data = [results.recipe.get("data") or {}, *(task.get("data") or {} for task in results.recipe.get("tasks") or [])]
    if results.scenario == "language":
        return "language"
    return "text" if any(block.get("text") for block in data) else "image"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "task"
