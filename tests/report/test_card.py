"""The card's metadata are what a hub can read, and its text is safe to show."""

from collections.abc import Callable
from typing import Any

from huggingface_hub import ModelCard

from stockpot.report.card import model_card

Factory = Callable[..., Any]


def test_metadata(run_of: Factory) -> None:
    run = run_of("sfa", keep=0.9)
    licence = {"license": "apache-2.0"}
    card = ModelCard(model_card(run, "google/vit-base-patch16-224-in21k", ["mnist", "cifar10", "mnist"], licence))
    data = card.data
    assert (data.base_model, data.license) == ("google/vit-base-patch16-224-in21k", "apache-2.0")
    assert data.datasets == ["mnist", "cifar10"] and "stockpot" in data.tags and data.library_name == "transformers"
    assert [result.metric_value for result in data.eval_results] == [
        round(value, 6) for value in run.scores["accuracy"].matrix[-1]
    ]
    assert [result.dataset_name for result in data.eval_results] == run.tasks
    assert "AutoModelForImageClassification" in card.text and "SFA after 3 tasks: average accuracy" in card.text


def test_unknown_things_are_left_out(run_of: Factory) -> None:
    run = run_of()
    run.recipe["model"] = {"build": "package.module:function"}
    text = model_card(run, None, [], None)
    front = text.split("---")[1]
    assert not any(key in front for key in ("base_model", "datasets", "license", "library_name", "null"))
    assert "from_pretrained" not in text and "model.safetensors" in text


def test_language_models_are_loaded_as_such(run_of: Factory) -> None:
    run = run_of().model_copy(update={"scenario": "language"})
    text = model_card(run, None, [], None)
    assert "AutoModelForCausalLM" in text and "pipeline_tag: text-generation" in text


def test_tasks_of_one_data_set_keep_their_own_scores(run_of: Factory) -> None:
    """Same data set, names that a slug cannot tell apart: still one result each."""
    card = ModelCard(model_card(run_of(tasks=["一", "二", "三"]), None, ["mnist"], None))
    assert [result.dataset_name for result in card.data.eval_results] == ["一", "二", "三"]


def test_names_cannot_break_the_metadata_or_the_text(run_of: Factory, hostile: str) -> None:
    run = run_of("sfa", tasks=[hostile, "---", "a|b\n# c"])
    run.notes.append(hostile)
    text = model_card(run, None, [], None)
    card = ModelCard(text)
    assert [result.dataset_name for result in card.data.eval_results] == run.tasks
    assert "<script" not in card.text and "a\\|b \\# c" in card.text


def test_a_run_before_its_first_task(run_of: Factory) -> None:
    run = run_of()
    run.scores["accuracy"].matrix = []
    assert "No task has been learnt" in model_card(run, None, [], None)
