"""The same configurations merged by mergekit (golden/, from benchmarks/merge/make_goldens.py) and by us.

Where the definitions agree, so do the numbers. Where they do not, ours is compared with its equation in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stockpot.merging.api import Options
from stockpot.merging.execute import merge_into, merge_state
from stockpot.merging.rules.random_masks import chance, keep, mask_key
from stockpot.merging.spec.merge_spec import MergeSpec
from stockpot.merging.spec.mergekit_yaml import parse_merge_config, read_merge_config
from stockpot.yaml_text import parse_yaml

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(file.stem for file in GOLDEN.glob("*.yaml"))
HALF = [case for case in CASES if case.endswith("_bf16")]
SINGLE = [case for case in CASES if case not in HALF]
# These rules multiply by what they read off an angle: mergekit sums its norms and products in fp32, we in fp64.
ANGLES = [case for case in SINGLE if case.startswith(("slerp", "nuslerp", "model_stock"))]
DIRECT = [case for case in SINGLE if case not in ANGLES]
EPS = torch.finfo(torch.float32).eps


@cache
def inputs() -> dict[str, dict[str, Tensor]]:
    return {folder.name: load_file(folder / "model.safetensors") for folder in (GOLDEN / "models").iterdir()}


def spec_of(case: str) -> MergeSpec:
    return read_merge_config(GOLDEN / f"{case}.yaml")


def theirs_of(case: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{case}.safetensors")


def merged(spec: MergeSpec, double: bool = False) -> dict[str, Tensor]:
    states = inputs()
    if double:
        spec = replace(spec, dtype="F64")
        states = {path: {name: tensor.double() for name, tensor in state.items()} for path, state in states.items()}
    return merge_state(spec, Options(threads=1), states)


def distance(result: dict[str, Tensor], expected: dict[str, Tensor], paths: Sequence[str]) -> float:
    """The largest difference, in fp32 ulps of the summands: if terms cancel, the result's own ulps are smaller."""
    assert result.keys() == expected.keys()
    worst = 0.0
    for name, tensor in expected.items():
        assert result[name].shape == tensor.shape
        summands = sum(inputs()[path][name].double().abs() for path in paths)
        worst = max(worst, float(((result[name].double() - tensor.double()).abs() / (EPS * summands)).max()))
    return worst


def test_the_golden_files_cover_the_rules_whose_definitions_agree() -> None:
    assert {spec_of(case).rule for case in CASES} == {
        "linear", "slerp", "nuslerp", "task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties", "model_stock",
        "passthrough",
    }  # fmt: skip
    near, far = (
        torch.cosine_similarity(inputs()["base"][name].flatten(), inputs()[path][name].flatten(), dim=0)
        for path in ("near", "far")
        for name in ["model.layers.0.mlp.up_proj.weight"]
    )
    assert near > 0.9995  # slerp's straight line
    assert far < 0.5


@pytest.mark.parametrize("case", [case for case in DIRECT if not spec_of(case).slices])
def test_sums_are_mergekit_s_to_one_ulp(case: str) -> None:
    spec, reference = spec_of(case), theirs_of(case)
    result = merged(spec)
    assert {tensor.dtype for tensor in (*result.values(), *reference.values())} == {torch.float32}
    assert distance(result, reference, spec.paths) <= 1


@pytest.mark.parametrize("case", ANGLES)
def test_what_turns_on_an_angle_is_mergekit_s_but_for_its_rounding_of_the_angle(case: str) -> None:
    spec, reference = spec_of(case), theirs_of(case)
    result, exact = merged(spec), merged(spec, double=True)
    assert distance(result, reference, spec.paths) <= 8
    ours_off, theirs_off = (distance(state, exact, spec.paths) for state in (result, reference))
    assert ours_off <= min(theirs_off, 2)


@pytest.mark.parametrize("case", HALF)
def test_written_in_bfloat16_the_results_are_neighbours_at_most(case: str) -> None:
    result, reference = merged(spec_of(case)), theirs_of(case)
    assert result.keys() == reference.keys()
    for name, tensor in reference.items():
        assert result[name].dtype == tensor.dtype == torch.bfloat16
        assert torch.equal(result[name].signbit(), tensor.signbit())
        steps = result[name].view(torch.int16).int() - tensor.view(torch.int16).int()
        assert int(steps.abs().max()) <= 1, name


def test_layers_are_put_together_as_mergekit_puts_them_bit_for_bit() -> None:
    result, reference = merged(spec_of("passthrough")), theirs_of("passthrough")
    assert result.keys() == reference.keys()
    assert sum("q_proj" in name for name in result) == 6
    assert all(torch.equal(result[name], tensor) for name, tensor in reference.items())


def test_filters_and_depths_mean_in_slices_what_they_mean_to_mergekit() -> None:
    result, reference = merged(spec_of("linear_slices")), theirs_of("linear_slices")
    assert result.keys() == reference.keys()
    assert sum("q_proj" in name for name in result) == 3
    for name, tensor in reference.items():
        torch.testing.assert_close(result[name], tensor, rtol=0, atol=4e-6, msg=name)


@pytest.mark.parametrize("case", ["passthrough", "ties_gradient", "slerp_gradient_bf16"])
def test_merging_folders_writes_what_merging_in_memory_returns(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(GOLDEN / "models")
    spec = spec_of(case)
    out = merge_into(spec, tmp_path / "out", Options(threads=1, sync=False))
    written, returned = load_file(out / "model.safetensors"), merged(spec)
    assert written.keys() == returned.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in returned.items())


# --- Where the definitions differ -------------------------------------------------------------------------------------


def elected(vectors: Sequence[Tensor], weights: Sequence[float], normalize: bool, draw: float = 0.0) -> Tensor:
    """TIES' election in float64; `draw` is the sign after a tied vote: 0 here, +1 in mergekit."""
    scaled = [weight * vector for weight, vector in zip(weights, vectors, strict=True)]
    vote = torch.stack(scaled).sum(0).sign()
    vote = torch.where(vote == 0, torch.full_like(vote, draw), vote)
    agrees = [(vector.sign() == vote) & (vector != 0) for vector in scaled]
    total = torch.stack([vector * agree for vector, agree in zip(scaled, agrees, strict=True)]).sum(0)
    share = torch.stack([weight * agree.double() for weight, agree in zip(weights, agrees, strict=True)]).sum(0)
    return total / share.masked_fill(share == 0, 1) if normalize else total


def test_where_the_vote_is_a_draw_nothing_is_merged_and_mergekit_takes_the_positive_ones() -> None:
    # +1 against −1, twice +0.5 against −1, and one element without a draw.
    base = torch.tensor([1.0, 2.0, 3.0])
    changes = [torch.tensor([1.0, 0.5, 0.25]), torch.tensor([-1.0, 0.5, 0.5]), torch.tensor([0.0, -1.0, -0.25])]
    states = {"base": {"w": base}} | {f"m{number}": {"w": base + change} for number, change in enumerate(changes)}
    spec = parse_merge_config({"merge_method": "ties", "base_model": "base", "models": ["m0", "m1", "m2"]}, "x.yaml")
    result = merge_state(spec, Options(threads=1), states)["w"].double()
    vectors = [change.double() for change in changes]
    ones = [1.0] * 3
    assert torch.equal(result, base.double() + elected(vectors, ones, normalize=True))
    assert result.tolist() == [1.0, 2.0, 3.375]
    assert (base.double() + elected(vectors, ones, normalize=True, draw=1)).tolist() == [2.0, 2.5, 3.375]


RANDOM = """
merge_method: %s
base_model: base
models:
  - {model: mid, parameters: {weight: 0.7, density: 0.4}}
  - {model: far, parameters: {weight: 0.2, density: 0.6}}
parameters: {lambda: 0.9, %s}
stockpot: {seed: 5}
"""


@pytest.mark.parametrize("rule", ["dare_linear", "dare_ties", "della", "della_linear"])
@pytest.mark.parametrize("rescale", [True, False])
def test_random_drops_are_the_papers_divided_by_the_chance_of_staying(rule: str, rescale: bool) -> None:
    """mergekit draws from torch's global generator, and rescales so that the sum of magnitudes is preserved."""
    spec = parse_merge_config(parse_yaml(RANDOM % (rule, f"rescale: {str(rescale).lower()}"), "x.yaml"), "x.yaml")
    result = merged(spec)
    weights, densities = (0.7, 0.2), (0.4, 0.6)
    base = inputs()["base"]
    for name, tensor in base.items():
        vectors = []
        for number, (path, density) in enumerate(zip(("mid", "far"), densities, strict=True)):
            single = inputs()[path][name] - tensor  # by which DELLA ranks
            chances = torch.full_like(single, chance(density), dtype=torch.float64)
            if rule.startswith("della"):
                ranks = single.abs().argsort(dim=-1, stable=True).argsort(dim=-1).double()
                spread = density - 0.15 + 0.3 * ranks / (single.shape[-1] - 1)
                chances = (spread * 65536).round() / 65536
            mask = keep(mask_key(5, number, name), 0, single.flatten().double(), chances.flatten()).view_as(single)
            vectors.append(single.double() * mask / (chances if rescale else 1))
        if rule.endswith("_linear"):
            change = sum(weight * vector for weight, vector in zip(weights, vectors, strict=True))
        else:  # DELLA averages what agrees, DARE adds it up, as in mergekit
            change = elected(vectors, weights, normalize=rule == "della")
        torch.testing.assert_close(result[name].double(), tensor.double() + 0.9 * change, rtol=1e-6, atol=1e-5)
