"""β by layer and by task: what is grouped, weighted means, and counts that add up."""

from collections.abc import Callable
from typing import Any

import pytest

from stockpot.report import beta_layers
from stockpot.results import Results, TaskBetas, TensorBetas

Factory = Callable[..., Any]


def tensor(name: str, mean: float, *counts: int) -> TensorBetas:
    """`counts` of the highest tenths, the tenths below them empty."""
    return TensorBetas(tensor=name, weights=sum(counts), mean=mean, counts=[0] * (10 - len(counts)) + list(counts))


FIRST = TaskBetas(
    kept=0.5, tensors=[tensor("h.0.weight", 0.9, 0, 90), tensor("h.0.bias", 0.4, 10, 0), tensor("head.weight", 0.95, 4)]
)
SECOND = TaskBetas(
    kept=0.3,
    tensors=[tensor("h.0.weight", 0.68, 90, 0), tensor("h.0.bias", 0.6, 10, 0), tensor("head.weight", 0.85, 4)],
)


def with_betas(run: Results, *betas: TaskBetas | None) -> Results:
    return run.model_copy(update={"betas": list(betas)})


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.7.mlp.up_proj.weight", "model.layers.7"),
        ("model.layers.17.mlp.experts.3.w1.weight", "model.layers.17"),  # an expert is no layer
        ("transformer.h.0.attn.c_attn.bias", "transformer.h.0"),
        ("layer4.1.conv2.weight", "layer4.1"),  # a digit inside a name is no number of a layer
        ("0.weight", "0"),
        ("prompts.3", "prompts.3"),
        ("model.embed_tokens.weight", "model.embed_tokens"),
        ("lm_head.weight", "lm_head"),
        ("logit_scale", "logit_scale"),
    ],
)
def test_the_layer_of_a_tensor(name: str, layer: str) -> None:
    assert beta_layers.layer_name(name) == layer


def test_tensors_of_a_layer_stand_together_in_the_models_order() -> None:
    names = ["emb.weight", "h.1.b", "h.0.a", "h.1.a", "head.weight", "h.10.a"]
    grouped = beta_layers.by_layer(tensor(name, 0.5, 1) for name in names)
    assert {layer: [each.tensor for each in tensors] for layer, tensors in grouped.items()} == {
        "emb": ["emb.weight"],
        "h.1": ["h.1.b", "h.1.a"],
        "h.0": ["h.0.a"],
        "head": ["head.weight"],
        "h.10": ["h.10.a"],
    }


def test_a_mean_weighs_tensors_by_their_size() -> None:
    layer = beta_layers.by_layer(FIRST.tensors)["h.0"]
    assert beta_layers.mean_beta(layer) == pytest.approx((90 * 0.9 + 10 * 0.4) / 100)
    assert beta_layers.mean_beta(FIRST.tensors) == pytest.approx((90 * 0.9 + 10 * 0.4 + 4 * 0.95) / 104)


def test_the_shares_of_a_layer_are_of_its_weights_and_add_up() -> None:
    layer = beta_layers.by_layer(FIRST.tensors)["h.0"]
    assert beta_layers.share_by_tenth(layer) == [0] * 8 + [0.1, 0.9]
    assert sum(beta_layers.share_by_tenth(FIRST.tensors)) == pytest.approx(1)


def test_pooled_runs_have_the_mean_of_the_runs_and_all_their_counts() -> None:
    pooled = beta_layers.pooled([FIRST, SECOND])
    assert pooled.kept == pytest.approx(0.4)
    assert [each.tensor for each in pooled.tensors] == ["h.0.weight", "h.0.bias", "head.weight"]
    assert [each.mean for each in pooled.tensors] == pytest.approx([0.79, 0.5, 0.9])
    assert [sum(each.counts) for each in pooled.tensors] == [each.weights for each in pooled.tensors] == [180, 20, 8]
    assert beta_layers.pooled([FIRST]) == FIRST
    assert beta_layers.pooled([FIRST.model_copy(update={"kept": None}), SECOND]).kept == 0.3


def test_the_table_of_a_run_has_a_row_for_each_task(run_of: Factory) -> None:
    grid = beta_layers.run_grid(with_betas(run_of("sfa"), None, FIRST, SECOND))
    assert grid is not None and grid.headings == ["mean β", "distance kept"]
    assert grid.rows == [("task0", ["—", "—"]), ("task1", ["0.85", "50 %"]), ("task2", ["0.68", "30 %"])]
    assert grid.caption == "β of each task; —: not averaged"
    assert beta_layers.run_grid(run_of("sfa")) is None
    assert beta_layers.run_grid(with_betas(run_of("sfa"), None, None)) is None


def test_the_table_of_a_comparison_has_intervals_over_the_runs_that_averaged(run_of: Factory) -> None:
    runs = [with_betas(run_of("sfa"), None, FIRST), with_betas(run_of("sfa"), None, SECOND)]
    grid = beta_layers.comparison_grid({"ewc": [run_of("ewc")], "auto": runs}, ["a", "b"], "over 2 seeds")
    assert grid is not None and grid.headings == ["auto mean β", "auto distance kept"]
    t = 12.706  # Student's, of 1 degree of freedom, times the standard error, which is half the difference
    assert grid.rows[0] == ("a", ["—", "—"])
    means = [(81 + 4 + 3.8) / 104, (61.2 + 6 + 3.4) / 104]
    mean = f"{sum(means) / 2:.2f} ± {t * (means[0] - means[1]) / 2:.2f}"
    assert grid.rows[1] == ("b", [mean, f"40 % ± {100 * t * 0.1:.0f} %"])
    assert grid.caption == "β of each task; over 2 seeds; —: not averaged"
    assert beta_layers.comparison_grid({"ewc": [run_of("ewc")]}, ["a"]) is None


def test_the_note_of_a_run_is_one_line_on_its_first_and_last_average() -> None:
    unmoved = SECOND.model_copy(update={"kept": None})
    names = ["a", "b", "c", "d"]
    assert beta_layers.beta_note(names, [None, FIRST, FIRST, SECOND]) == (
        "beta: auto gave mean β 0.85 at task 'b' and 0.68 at task 'd', and kept 50 % and 30 % of the distance from the "
        "anchor"
    )
    assert beta_layers.beta_note(names, [None, SECOND]) == (
        "beta: auto gave mean β 0.68 at task 'b', and kept 30 % of the distance from the anchor"
    )
    assert beta_layers.beta_note(names, [unmoved]) == "beta: auto gave mean β 0.68 at task 'a'"
    assert beta_layers.beta_note(names, []) is None and beta_layers.beta_note(names, [None]) is None
