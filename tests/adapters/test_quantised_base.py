"""QLoRA on the processor: the base is held in few bits and never touched, the average is B ← (1−β)·B to the bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from stockpot import SFA
from stockpot.api.run_result import RunResult
from stockpot.errors import StockpotError
from stockpot.methods import registry
from stockpot.models.lora import LoraSpec, attach, fold_adapter, is_stacked
from stockpot.models.spec import ModelSpec
from stockpot.models.start import start_model
from stockpot.recipe.schema import Recipe
from stockpot.runs.actions import continue_run, create_run
from stockpot.runs.progress import Progress
from stockpot.training.job import Interrupted, Stop

bitsandbytes = pytest.importorskip("bitsandbytes", reason="the extra `quantize` is not installed")

TEXT = torch.randint(300, (3, 8), generator=torch.Generator().manual_seed(5))
ADAPTER = {"r": 3, "output": "adapter"}


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        result: Tensor = model.eval()(input_ids=TEXT).logits
    return result


@pytest.mark.parametrize(("bits", "stored"), [("4bit", torch.uint8), ("8bit", torch.int8)])
def test_an_average_scales_b_and_nothing_else_to_the_bit(base: Path, bits: str, stored: torch.dtype) -> None:
    spec = ModelSpec(name=str(base), quantize=bits, lora=LoraSpec(**ADAPTER))
    plain = start_model(spec, 0, 0, "language")
    quantised = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    assert quantised["model.layers.0.mlp.up_proj.weight"].dtype == stored
    start = logits(plain)
    exact = logits(AutoModelForCausalLM.from_pretrained(base))
    assert 1e-4 < float((start - exact).abs().max()) < 0.5 * float(exact.abs().max())  # of few bits, but the same model
    model = attach(plain, LoraSpec(**ADAPTER), seed=1)
    assert torch.equal(logits(model), start)
    sfa = SFA(model, beta=0.25, every=1)
    trained = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=0.02)
    losses = []
    for _ in range(3):
        loss = model(input_ids=TEXT, labels=TEXT).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[2] < losses[0]  # gradients pass through the quantised layers
    before = {name: tensor.detach().clone() for name, tensor in trained.items()}
    sfa.step()
    assert (sfa.averages, sfa.factors, sfa.anchor_bytes, dict(sfa.anchor)) == (1, 7, 0, {})
    for name, tensor in trained.items():
        assert torch.equal(tensor, before[name] * 0.75 if "lora_B" in name else before[name])
        assert float(before[name].abs().max()) > 0
    with pytest.raises(StockpotError, match="ΔW would round away in it"):
        fold_adapter(model)
    left: Any = model
    for name, tensor in left.unload().state_dict().items():
        assert torch.equal(tensor, quantised[name])


class StoppingAfter(Progress):
    """Requests a stop after a step."""

    def __init__(self, last: int) -> None:
        self.stop, self.last = Stop(), last

    def step(self, step: int, total: int) -> None:
        self.stop.requested = step == self.last


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], Path]:
    """`finished(recipe)`: the folder of its run, which nothing interrupted; made once."""
    made: list[Path] = []

    def learn(chosen: Recipe) -> Path:
        if not made:
            made.append(tmp_path_factory.mktemp("qlora") / "run")
            create_run(chosen, chosen.method, 0, made[0])
            continue_run(made[0])
        return made[0]

    return learn


@pytest.fixture
def sfa_recipe(recipe: Callable[..., Recipe], base: Path) -> Recipe:
    model = {"name": str(base), "quantize": "4bit", "lora": ADAPTER}
    return recipe(model, method={"name": "sfa", "beta": 0.25, "p": 0.5})


def test_a_run_that_was_stopped_and_resumed_leaves_the_same_bits(
    sfa_recipe: Recipe, finished: Callable[[Recipe], Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    create_run(sfa_recipe, sfa_recipe.method, 0, run)
    for step in (2, 4):  # in the first task, before and after its first average
        stopping = StoppingAfter(step)
        with pytest.raises(Interrupted):
            continue_run(run, stop=stopping.stop, progress=stopping)
    continue_run(run)
    for place in ("01-law", "02-math"):
        one, two = (load_file(folder / "tasks" / place / "model" / "adapter_model.safetensors")
                    for folder in (run, finished(sfa_recipe)))  # fmt: skip
        assert one.keys() == two.keys()
        assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_what_a_run_leaves_is_its_base_in_four_bits_and_an_adapter_that_peft_loads(
    sfa_recipe: Recipe, finished: Callable[[Recipe], Path], base: Path
) -> None:
    run = finished(sfa_recipe)
    start = run / "tasks" / "00-start" / "model"
    assert json.loads((start / "config.json").read_text())["quantization_config"]["bnb_4bit_quant_type"] == "nf4"
    assert load_file(start / "model.safetensors")["model.layers.0.mlp.up_proj.weight"].dtype == torch.uint8
    folder = run / "tasks" / "02-math" / "model"
    assert not list(folder.glob("model*.safetensors"))
    result = RunResult(run, continue_run(run))
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                  bnb_4bit_compute_dtype=torch.float32)  # fmt: skip
    afresh = AutoModelForCausalLM.from_pretrained(base, quantization_config=settings, dtype=torch.float32)
    expected = logits(PeftModel.from_pretrained(afresh, str(folder)))
    assert torch.equal(logits(result.model()), expected)
    loss = result.matrix("loss")
    assert loss.loc["law", "law"] < 0.7 * result.matrix("loss", start=True).loc["start", "law"]


def test_a_base_that_is_stored_in_four_bits_is_taken_as_it_is(
    sfa_recipe: Recipe, finished: Callable[[Recipe], Path]
) -> None:
    stored = finished(sfa_recipe) / "tasks" / "00-start" / "model"
    model = start_model(ModelSpec(name=str(stored), lora=LoraSpec(**ADAPTER)), 0, 0, "language")
    kept = load_file(stored / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(model.state_dict()[name], kept[name])
    with pytest.raises(StockpotError, match=r"model\.quantize: .* is stored in 4 bits already; drop the key"):
        start_model(ModelSpec(name=str(stored), quantize="8bit", lora=LoraSpec(**ADAPTER)), 0, 0, "language")
    with pytest.raises(StockpotError, match=r"is quantised \(bitsandbytes\), and a run needs plain weights"):
        start_model(ModelSpec(name=str(stored)), 0, 0, "language")


def test_an_adapter_that_a_quantised_run_left_is_stacked_on_a_quantised_base(
    sfa_recipe: Recipe, finished: Callable[[Recipe], Path], base: Path
) -> None:
    run = finished(sfa_recipe)
    adapter = str(run / "tasks" / "02-math" / "model")
    spec = ModelSpec(name=adapter, base=str(base), quantize="4bit", lora=LoraSpec(**ADAPTER))
    model = start_model(spec, 0, 0, "language")
    assert is_stacked(model)
    assert torch.equal(logits(model), logits(RunResult(run, continue_run(run)).model()))


def test_other_quantisations_are_refused_by_name(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "gptq")
    values = json.loads((folder / "config.json").read_text())
    values["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(StockpotError, match=r"is quantised \(gptq\), and adapters are trained beside plain weights or"):
        start_model(ModelSpec(name=str(folder), lora=LoraSpec(**ADAPTER)), 0, 0, "language")


def test_without_bitsandbytes_the_extra_is_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stockpot.models.quantised.find_spec", lambda name: None)
    with pytest.raises(StockpotError, match=r"model\.quantize needs bitsandbytes: pip install 'stockpot\[quantize\]'"):
        start_model(ModelSpec(name=str(base), quantize="4bit", lora=LoraSpec(**ADAPTER)), 0, 0, "language")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"name": "a/b", "lora": {"r": 3}}, "a whole model cannot be written; set lora: {output: adapter}"),
        ({"name": "a/b"}, "weights in few bits are not trained themselves"),
        ({"config": {"model_type": "llama"}, "lora": ADAPTER}, "quantises a model while it is loaded; give model.name"),
    ],
)
def test_what_a_quantised_base_cannot_do_is_refused_in_the_recipe(model: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ModelSpec(**{**model, "quantize": "4bit", "lora": model.get("lora") and LoraSpec(**model["lora"])})


def test_methods_that_need_merged_weights_say_what_to_change(
    recipe: Callable[..., Recipe], base: Path, tmp_path: Path
) -> None:
    model = {"name": str(base), "quantize": "4bit", "lora": ADAPTER}
    for method in ({"name": "sfa", "beta": "auto"}, {"name": "ewc"}, {"name": "ties"}):
        chosen = recipe(model, method=method)
        with pytest.raises(StockpotError, match=r"drop model\.quantize, and set lora\.output: merged"):
            create_run(chosen, chosen.method, 0, tmp_path / "run")


@pytest.mark.thorough
@pytest.mark.parametrize("name", list(registry()))
def test_every_method_learns_beside_a_quantised_base_or_is_refused(
    name: str, recipe: Callable[..., Recipe], base: Path, tmp_path: Path
) -> None:
    fixed = {"beta": 0.25} if name == "sfa" else {}
    chosen = recipe(
        {"name": str(base), "quantize": "4bit", "lora": ADAPTER},
        method={"name": name, **registry()[name].typical, **fixed},
    )
    try:
        create_run(chosen, chosen.method, 0, tmp_path / "run")
    except StockpotError as error:
        assert "weights" in str(error)
        assert name not in ("sequential", "sfa", "wise_ft", "replay", "agem", "lwf", "l2", "joint")
        return
    scores = continue_run(tmp_path / "run").scores["loss"]
    after, before = scores.matrix[-1][1], scores.initial[1]
    assert after is not None
    assert before is not None
    assert after < before
