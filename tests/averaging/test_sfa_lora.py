"""SFA of LoRA factors is SFA of the dense weights, with nothing kept; what is not linear is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoHaConfig, LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from stockpot import SFA, SFACallback, StockpotError
from stockpot.weights.checkpoint import open_checkpoint, save_checkpoint

BASE = "base_model.model."
TARGETS = ["q_proj", "down_proj"]


def llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                         num_key_value_heads=2, vocab_size=32, max_position_embeddings=32)  # fmt: skip
    return LlamaForCausalLM(config).double()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=32, n_positions=32)).double()


def adapted(base: nn.Module | None = None, **settings: Any) -> PeftModel:
    model = llama() if base is None else base
    torch.manual_seed(1)
    config = {"r": 4, "lora_alpha": 6, "target_modules": TARGETS, **settings}
    return get_peft_model(model, LoraConfig(**config), adapter_name="task")


def tokens(step: int) -> Tensor:
    return torch.randint(32, (4, 8), generator=torch.Generator().manual_seed(step))


def dense(model: PeftModel) -> dict[str, Tensor]:
    """The weights that the model computes with, by the plain model's names."""
    model.merge_adapter()
    state = {}
    for name, tensor in model.get_base_model().state_dict().items():
        parts = name.split(".")
        if not {"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "original_module"} & set(parts):
            state[name] = tensor.detach().clone()
    model.unmerge_adapter()
    return state


def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        optimizer.zero_grad()
        model(input_ids=tokens(step), labels=tokens(step)).loss.backward()
        optimizer.step()


def optimizer_of(model: nn.Module, kind: type[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    rate = {"lr": 5.0} if kind is torch.optim.SGD else {"lr": 0.02}
    return kind([tensor for tensor in model.parameters() if tensor.requires_grad], **rate)


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "embedding": {"target_modules": [*TARGETS, "embed_tokens"]},
    "whole layers": {"modules_to_save": ["lm_head"]},
    "ranks by layer": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3}},
    "gaussian": {"init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_every_average_is_that_of_the_dense_weights(
    settings: dict[str, Any], kind: type[torch.optim.Optimizer]
) -> None:
    model = adapted(**settings)
    start, optimizer = dense(model), optimizer_of(model, kind)
    sfa = SFA(model, beta=0.25, every=3)
    for round_ in range(3):
        train(model, optimizer, 3 * round_, 3 * round_ + 3)
        before = dense(model)
        assert max(float((before[name] - start[name]).abs().max()) for name in start) > 1e-3
        sfa.average()
        for name, tensor in dense(model).items():
            torch.testing.assert_close(tensor, 0.75 * before[name] + 0.25 * start[name], rtol=0, atol=1e-12)


def test_the_layers_of_gpt2_and_convolutions_are_averaged_alike() -> None:
    image = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=2)).double()
    for model, x in (
        (adapted(gpt2(), target_modules=["c_attn"]), tokens(0)),
        (adapted(image, target_modules=["0", "1"]), torch.randn(2, 3, 9, 9).double()),
    ):
        sfa = SFA(model, beta=0.25, every=1)
        start = [layer.base_layer.weight.detach().clone() for layer in model.modules() if hasattr(layer, "base_layer")]
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if "lora_B" in name:
                    tensor.normal_(generator=torch.Generator().manual_seed(3))
        factors = [tensor.detach().clone() for tensor in model.parameters() if tensor.requires_grad]
        sfa.average()
        after = [tensor.detach() for tensor in model.parameters() if tensor.requires_grad]
        named = [name for name, tensor in model.named_parameters() if tensor.requires_grad]
        for name, old, new in zip(named, factors, after, strict=True):
            torch.testing.assert_close(new, 0.75 * old if "lora_B" in name else old, rtol=1e-15, atol=0)
        bases = [layer.base_layer.weight for layer in model.modules() if hasattr(layer, "base_layer")]
        assert all(map(torch.equal, bases, start))
        assert torch.isfinite(model(x).logits if x.dtype == torch.int64 else model(x)).all()


def test_averaging_a_and_b_separately_is_something_else() -> None:
    model = adapted()
    start = dense(model)
    factors = {name: tensor.detach().clone() for name, tensor in model.named_parameters() if tensor.requires_grad}
    train(model, optimizer_of(model, torch.optim.Adam), 0, 5)
    before = dense(model)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name in factors:
                tensor.lerp_(factors[name], 0.25)
    gaps = [(tensor - (0.75 * before[name] + 0.25 * start[name])).abs().max() for name, tensor in dense(model).items()]
    assert max(gaps) > 1e-3


@pytest.mark.parametrize("keep", ["device", "cpu", "disk"])
def test_lora_alone_keeps_no_anchor(keep: Any) -> None:
    sfa = SFA(adapted(), beta=0.25, every=1, keep=keep)
    assert (sfa.anchor_bytes, dict(sfa.anchor), sfa.factors, sfa.state_dict()["anchor"]) == (0, {}, 4, {})


def test_what_is_trained_beside_the_factors_keeps_a_small_anchor() -> None:
    sfa = SFA(adapted(modules_to_save=["lm_head"]), beta=0.25, every=1)
    assert list(sfa.anchor) == [BASE + "lm_head.modules_to_save.task.weight"]
    assert sfa.anchor_bytes == 32 * 16 * 8
    biased = adapted(nn.Sequential(nn.Linear(4, 4)).double(), target_modules=["0"], bias="all")
    assert list(SFA(biased, beta=0.25, every=1).anchor) == [BASE + "0.base_layer.bias"]
    extra = adapted(nn.Sequential(nn.Linear(4, 4)).double(), target_modules=["0"], lora_bias=True)
    assert list(SFA(extra, beta=0.25, every=1).anchor) == [BASE + "0.lora_B.task.bias"]


def test_beta_0_is_bitwise_plain_and_beta_1_restores_the_base() -> None:
    base = llama()
    expected = base(tokens(9)).logits
    results = []
    for beta in (None, 0.0, 1.0):
        model = adapted()
        sfa = None if beta is None else SFA(model, beta=beta, every=1)
        optimizer = optimizer_of(model, torch.optim.Adam)
        for step in range(3):
            train(model, optimizer, step, step + 1)
            if sfa is not None:
                sfa.step()
        results.append((model(tokens(9)).logits, [tensor.detach() for tensor in model.parameters()]))
    assert all(map(torch.equal, results[0][1], results[1][1]))
    assert torch.equal(results[2][0], expected)
    assert not torch.equal(results[0][0], expected)


def test_beta_by_name_and_adapters_that_share_a_layer() -> None:
    model = adapted()
    model.add_adapter("more", LoraConfig(r=2, lora_alpha=5, target_modules=["q_proj"]))
    model.base_model.set_adapter(["task", "more"])
    sfa = SFA(model, beta={"*.layers.0.*": 0.5, "*": 0.25}, every=1)
    start = dense(model)
    train(model, optimizer_of(model, torch.optim.Adam), 0, 3)
    before = dense(model)
    gap = sum(float((before[name] - start[name]).square().sum()) for name in start) ** 0.5
    assert sfa.distance() == pytest.approx(gap, rel=1e-12)
    sfa.average()
    for name, tensor in dense(model).items():
        beta = 0.5 if ".layers.0." in name else 0.25
        torch.testing.assert_close(tensor, before[name].lerp(start[name], beta), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["plain", "rank-stabilised", "embedding", "whole layers"])
def test_distance_is_that_of_the_dense_weights(name: str) -> None:
    model = adapted(**SETTINGS[name])
    sfa, start = SFA(model, beta=0.25, every=9), dense(model)
    assert sfa.distance() == 0
    train(model, optimizer_of(model, torch.optim.Adam), 0, 3)
    gap = sum(float((tensor - start[key]).square().sum()) for key, tensor in dense(model).items()) ** 0.5
    assert sfa.distance() == pytest.approx(gap, rel=1e-12)


def test_tied_adapters_of_embedding_and_head_are_scaled_once() -> None:
    config = llama().config
    config.tie_word_embeddings = True
    model = adapted(LlamaForCausalLM(config).double(), target_modules=["embed_tokens", "lm_head"],
                    ensure_weight_tying=True)  # fmt: skip
    embedding, head = model.get_base_model().model.embed_tokens, model.get_base_model().lm_head
    assert head.lora_B["task"].weight.data_ptr() == embedding.lora_embedding_A["task"].data_ptr()
    sfa = SFA(model, beta=0.25, every=1)
    with torch.no_grad():
        embedding.lora_embedding_A["task"].normal_()
    before, b = embedding.get_delta_weight("task"), embedding.lora_embedding_B["task"].clone()
    sfa.average()
    assert torch.equal(embedding.lora_embedding_B["task"], b)  # scaled is the one that starts at zero
    torch.testing.assert_close(embedding.get_delta_weight("task"), 0.75 * before, rtol=1e-12, atol=1e-15)


def test_a_frozen_b_has_a_scaled_instead() -> None:
    model = adapted()
    for name, tensor in model.named_parameters():
        if "lora_B" in name:
            tensor.requires_grad_(False)
    sfa = SFA(model, beta=0.25, every=1)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    with torch.no_grad():
        layer.lora_B["task"].weight.normal_()
    a, b = layer.lora_A["task"].weight.clone(), layer.lora_B["task"].weight.clone()
    sfa.average()
    assert torch.equal(layer.lora_B["task"].weight, b)
    assert torch.equal(layer.lora_A["task"].weight, 0.75 * a)


def test_half_factors_follow_the_rounding_and_a_quantised_base_is_not_touched() -> None:
    model = adapted(llama().bfloat16(), target_modules=["q_proj"])
    model.to(torch.bfloat16)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    layer.base_layer.weight = nn.Parameter(torch.ones(16, 16, dtype=torch.uint8), requires_grad=False)
    assert "lora_A.task.weight' is bfloat16" in refusal(model)
    sfa = SFA(model, beta=0.3, every=1, rounding="stochastic", generator=torch.Generator().manual_seed(0))
    b = layer.lora_B["task"].weight
    with torch.no_grad():
        b.fill_(1.0)
    sfa.average()
    assert {float(value) for value in b.flatten()} == {0.69921875, 0.703125}  # bf16's neighbours of 0.7
    assert int(layer.base_layer.weight.sum()) == 256


def refusal(model: nn.Module, **settings: Any) -> str:
    with pytest.raises(StockpotError) as caught:
        SFA(model, **{"beta": 0.1, "every": 1, **settings}).step()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("start", ["pissa", "olora", "orthogonal", False])
def test_an_initialisation_that_changes_the_function_is_refused(start: Any) -> None:
    model = adapted(llama().float(), init_lora_weights=start)
    with pytest.raises(StockpotError, match=f"task.weight' does not start at ΔW = 0 .init_lora_weights={start!r}"):
        SFA(model, beta=0.1, every=1)


def loha() -> nn.Module:
    return get_peft_model(llama(), LoHaConfig(r=2, target_modules=TARGETS))


def adalora() -> nn.Module:
    return get_peft_model(llama(), AdaLoraConfig(target_modules=TARGETS, total_step=9))


def home_made() -> nn.Module:
    model = nn.Linear(2, 2)
    model.lora_A = nn.Parameter(torch.zeros(2))
    return model


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: adapted(use_dora=True), "belongs to DoRA: its magnitude"),
        (adalora, "belongs to AdaLoRA"),
        (loha, "belongs to PEFT's loha"),
        (home_made, "'lora_A' is a LoRA factor"),
    ],
    ids=["DoRA", "AdaLoRA", "LoHa", "home-made"],
)
def test_what_is_not_linear_in_its_parameters_is_refused_by_name(build: Callable[[], nn.Module], words: str) -> None:
    assert words in refusal(build())


def test_another_anchor_than_the_base_is_refused(tmp_path: Path) -> None:
    model = adapted()
    save_checkpoint(llama().state_dict(), tmp_path / "model.safetensors")
    for anchor in (tmp_path, open_checkpoint(tmp_path), llama().state_dict()):
        assert "lora_B.task.weight' is a LoRA factor, whose anchor can only be the base" in refusal(
            model, anchor=anchor
        )


def test_an_adapter_that_is_merged_is_not_scaled() -> None:
    model = adapted()
    sfa = SFA(model, beta=0.25, every=1)
    model.merge_adapter()
    with pytest.raises(StockpotError, match=r"lora_B.task.weight': adapter 'task' is merged; call unmerge_adapter"):
        sfa.step()


def test_the_vectors_of_ia3_are_averaged_as_the_dense_weights_are() -> None:
    model = get_peft_model(llama(), IA3Config(target_modules=["k_proj", "v_proj"], feedforward_modules=[]))
    sfa, layer = SFA(model, beta=0.25, every=1), model.get_base_model().model.layers[0].self_attn.k_proj
    start = layer.base_layer.weight.detach().clone()
    vector = layer.ia3_l["default"]
    with torch.no_grad():
        vector.mul_(torch.linspace(0.5, 2, 16)[:, None])
    before = start * vector.detach()
    sfa.average()
    torch.testing.assert_close(start * vector, 0.75 * before + 0.25 * start, rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["lm_head"]}], ids=["factors", "whole layers"])
@pytest.mark.parametrize("order", ["state after weights", "weights after state"])
def test_resumed_equals_unbroken(settings: dict[str, Any], order: str, tmp_path: Path) -> None:
    def go(model: nn.Module, optimizer: torch.optim.Optimizer, sfa: SFA, first: int, last: int) -> None:
        for step in range(first, last):
            train(model, optimizer, step, step + 1)
            sfa.step()

    model = adapted(**settings)
    optimizer, sfa = optimizer_of(model, torch.optim.Adam), SFA(model, beta=0.25, p=0.3, total_steps=10)
    go(model, optimizer, sfa, 0, 5)
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "sfa": sfa.state_dict()}
    torch.save(saved, tmp_path / "state.pt")
    go(model, optimizer, sfa, 5, 10)
    state = torch.load(tmp_path / "state.pt", weights_only=True)

    fresh = adapted(**settings)
    if order == "state after weights":
        fresh.load_state_dict(state["model"])
        assert "has ΔW = s·B·A ≠ 0" in refusal(fresh, p=0.3, total_steps=10, every=None)
    again = SFA(fresh, beta=0.25, p=0.3, total_steps=10)
    fresh.load_state_dict(state["model"])
    again.load_state_dict(state["sfa"])
    optimizer = optimizer_of(fresh, torch.optim.Adam)
    optimizer.load_state_dict(state["optimizer"])
    go(fresh, optimizer, again, 5, 10)
    assert all(map(torch.equal, model.parameters(), fresh.parameters()))
    assert (again.steps, again.averages) == (sfa.steps, sfa.averages)


def trainer(folder: Path, model: nn.Module, callback: SFACallback, **settings: Any) -> Trainer:
    arguments = TrainingArguments(output_dir=str(folder), per_device_train_batch_size=2, max_steps=8, save_steps=4,
                                  learning_rate=0.02, use_cpu=True, report_to="none", disable_tqdm=True,
                                  logging_strategy="no")  # fmt: skip
    rows = [{"input_ids": row, "labels": row} for row in torch.cat([tokens(step) for step in range(4)])]
    return Trainer(model, arguments, train_dataset=rows, callbacks=[callback])


@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["lm_head"]}], ids=["factors", "whole layers"])
def test_a_trainer_resumed_half_way_equals_the_unbroken_one(settings: dict[str, Any], tmp_path: Path) -> None:
    def build() -> PeftModel:
        return adapted(llama().float(), lora_dropout=0.1, **settings)

    callback = SFACallback(beta=0.25, p=0.3)
    unbroken = trainer(tmp_path, build(), callback)
    unbroken.train()
    assert callback.sfa.averages == 4
    assert (tmp_path / "sfa-anchor").exists() is bool(settings)  # nothing is kept of the base
    again = SFACallback(beta=0.25, p=0.3)
    resumed = trainer(tmp_path, build(), again)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert again.sfa.averages == 4
    assert all(map(torch.equal, unbroken.model.parameters(), resumed.model.parameters()))
    with pytest.raises(StockpotError, match="ΔW = s·B·A ≠ 0"):  # a second task must start a new adapter
        trainer(tmp_path / "second", resumed.model, SFACallback(beta=0.25, p=0.3)).train()


def test_a_layer_trained_only_since_the_resume_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, adapted(llama().float()), SFACallback(beta=0.25, p=0.3)).train()
    model = adapted(llama().float())
    model.get_base_model().lm_head.weight.requires_grad_(True)
    resumed = trainer(tmp_path, model, SFACallback(beta=0.25, p=0.3))
    resumed.state.global_step, resumed.state.max_steps = 4, 8
    with pytest.raises(StockpotError, match=r"lm_head.weight' is trained here and was not when the training started"):
        SFACallback(beta=0.25, p=0.3).on_train_begin(resumed.args, resumed.state, resumed.control, model=model)
