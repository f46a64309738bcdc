"""Under LoRA penalties hold the weights that the model computes with, W + s·B·A; A and B get the chain rule's share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from speaking import gpt2, texts
from torch import Tensor, nn
from toy import Weights, assert_close, assert_same, config, copied

from stockpot import methods
from stockpot.importance.fisher import fisher, save_fisher
from stockpot.methods.base import Method, Task
from stockpot.models.lora import LoraSpec, attach, fold_adapter
from stockpot.models.spec import ModelSpec

# Linear layers stored both ways, an embedding, a layer trained whole, and biases beside them.
SPEC = LoraSpec(
    r=3, lora_alpha=5, use_rslora=True, target_modules=["c_attn", "wpe"], modules_to_save=["ln_f"], bias="all"
)
ADAPTED = {"transformer.h.0.attn.c_attn.weight", "transformer.wpe.weight"}


def move(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.requires_grad:
                tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor), alpha=0.3)


def weights(model: Any) -> Weights:
    """What is trained of what the model computes with, by the plain model's names, with a graph back to A and B."""
    found: Weights = {}
    for name, module in model.get_base_model().named_modules():
        if hasattr(module, "lora_embedding_A"):
            a, b = module.lora_embedding_A.get("task"), module.lora_embedding_B.get("task")
            if a is None:
                a, b = module.lora_A["task"].weight, module.lora_B["task"].weight
            product = module.scaling["task"] * (b @ a)
            found[f"{name}.weight"] = module.base_layer.weight + product.T  # GPT-2 keeps both kinds transposed
        elif name == "transformer.ln_f":
            found |= {f"{name}.{key}": tensor for key, tensor in module.modules_to_save["task"].named_parameters()}
    for name, tensor in model.get_base_model().named_parameters():
        if name.endswith("bias") and "ln_f" not in name:
            found[name.replace(".base_layer", "")] = tensor
    return found


def started(method: Method, index: int, plain: nn.Module, folder: Path) -> tuple[Task, Any, Weights]:
    """A task begun on the plain model, which is saved as the model before it; and the weights then."""
    (folder / "previous").mkdir(exist_ok=True)
    before = copied(plain)
    save_file(before, folder / "previous" / "model.safetensors")
    model = attach(plain, SPEC, seed=index)
    task = Task(
        index, f"t{index}", index, model, checkpoint=lambda source: folder / source, language=True, adapted=True
    )
    method.task_start(task)
    return task, model, before


def autograd(penalty: Tensor, model: nn.Module) -> Weights:
    named = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    found = torch.autograd.grad(penalty, list(named.values()), allow_unused=True)
    return {name: torch.zeros_like(named[name]) if one is None else one for name, one in zip(named, found, strict=True)}


def given(method: Method, model: nn.Module) -> Weights:
    model.zero_grad()
    method.gradients(model, 1)
    named = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    return {name: torch.zeros_like(one) if one.grad is None else one.grad.clone() for name, one in named.items()}


def squares(now: Weights, anchor: Weights, importance: Weights | None = None) -> Tensor:
    terms = [
        (one - anchor[name]).square() * (1 if importance is None else importance[name]) for name, one in now.items()
    ]
    return torch.stack([term.sum() for term in terms]).sum()


def test_l2_pulls_the_whole_weights_in_each_of_its_forms(tmp_path: Path) -> None:
    method = methods.build(config("l2", strength=0.6, first_task="average"))
    _, model, start = started(method, 0, gpt2(), tmp_path)
    move(model, 1)
    assert set(weights(model)) > ADAPTED
    penalty = 0.3 * squares(weights(model), start)
    assert_close(given(method, model), autograd(penalty, model))
    method.config = config("l2", strength=0.6, form="loss")
    loss = method.loss(torch.zeros(()).double(), torch.zeros(1), {}, model).detach()
    assert float(loss) == pytest.approx(float(penalty.detach()), rel=1e-12)
    before = {name: tensor.detach().clone() for name, tensor in weights(model).items()}
    method.config = config("l2", strength=0.6, form="decoupled")
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    method.after_step(model, torch.optim.SGD(trained, lr=0.5), 1)
    mean = {name: (tensor + 0.3 * start[name]) / 1.3 for name, tensor in before.items()}
    assert_close({name: tensor.detach() for name, tensor in weights(model).items()}, mean)
    assert method.costs.extra_memory_bytes == sum(
        start[name].nbytes for name in before if name not in ADAPTED
    )  # of the base there is no copy


@pytest.mark.parametrize("mode", ["separate", "online", "summed"])
def test_ewc_holds_the_folded_weights_of_every_task(mode: str, tmp_path: Path) -> None:
    """(λ/2)·Σ_t Σ F_t (W − W*_t)², F_t the Fisher of the folded model; online and summed at the newest W*."""
    plain, past = gpt2(), list[tuple[Weights, Weights]]()
    state: tuple[Weights, dict[str, Any]] = {}, {}
    for index in range(3):
        method = methods.build(config("ewc", strength=7.0, fisher="empirical", mode=mode, gamma=0.5))
        method.load_state(*state)
        task, model, _ = started(method, index, plain, tmp_path)
        move(model, index)
        if index == 2:
            break
        task.model = plain = fold_adapter(model)
        method.task_end(task, texts(index))
        past.append((copied(plain), fisher(plain, texts(index), "empirical", logits=task.logits)))
        state = method.state()
    assert {name.partition("/")[2] for name in state[0]} == set(weights(model))
    (one, of_one), (two, of_two) = past
    fade = 0.5 if mode == "online" else 1.0
    penalty = squares(weights(model), one if mode == "separate" else two, of_one) * fade
    penalty = 3.5 * (penalty + squares(weights(model), two, of_two))
    assert float(penalty) > 1e-3
    assert_close(given(method, model), autograd(penalty, model), 1e-10)


def test_a_fisher_of_the_start_model_protects_what_adapters_change(tmp_path: Path) -> None:
    start = gpt2()
    importance = {name: torch.rand_like(tensor) for name, tensor in start.named_parameters()}
    how = {"variant": "empirical", "reduction": "mean"}
    (tmp_path / "fisher").mkdir()
    save_fisher(importance, how, tmp_path / "fisher")
    method = methods.build(config("ewc", strength=2.0, fisher="empirical", start_fisher=str(tmp_path / "fisher")))
    _, model, anchor = started(method, 0, start, tmp_path)
    move(model, 1)
    assert_close(given(method, model), autograd(squares(weights(model), anchor, importance), model))


def test_strength_0_changes_no_bit(tmp_path: Path) -> None:
    for keys in ({"name": "l2", "strength": 0.0, "first_task": "average"}, {"name": "mas", "strength": 0.0}):
        method = methods.build(config(**keys))
        _, model, _ = started(method, 0, gpt2(), tmp_path)
        move(model, 1)
        before = copied(model)
        assert not any(tensor.any() for tensor in given(method, model).values())
        method.after_step(model, torch.optim.SGD(model.parameters(), lr=1.0), 1)
        assert_same(copied(model), before)


@pytest.mark.parametrize(
    ("name", "keys", "output", "words"),
    [
        ("si", {}, "merged", "it needs gradients of whole weights, which LoRA does not compute"),
        *((name, {}, "adapter", "with model.lora set output: merged") for name in ("ewc", "mas", "ties", "soup")),
        *((name, {"anchor": "pretrained"}, "merged", "anchor: pretrained: under LoRA") for name in ("sfa", "l2")),
    ],
)
def test_what_cannot_work_is_refused_by_name(name: str, keys: dict[str, Any], output: str, words: str) -> None:
    spec = ModelSpec.model_validate({"name": "a", "lora": {"output": output}})
    problem = config(name, **keys).problem_with_model(spec)
    assert problem is not None
    assert words in problem
    assert "\n" not in problem
    assert config(name).problem_with_model(ModelSpec(name="a")) is None


def test_bf16_weights_ask_for_a_choice() -> None:
    half = ModelSpec(name="a", dtype="bfloat16")
    for name in ("sfa", "wise_ft"):
        assert "set train.bf16: true (fp32 weights" in str(config(name).problem_with_model(half))
        assert config(name, rounding="stochastic").problem_with_model(half) is None
    assert "drop model.dtype, or use gradient" in str(config("l2", form="decoupled").problem_with_model(half))
    assert config("l2").problem_with_model(half) is None
