"""Models are built from a recipe, saved to a folder and loaded again without a bit of difference."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from stockpot.errors import StockpotError
from stockpot.models.names import saved_names, under_own_names
from stockpot.models.pretrained import model_config
from stockpot.models.spec import ModelSpec
from stockpot.models.start import start_model
from stockpot.models.store import load_model, needs_code, save_model
from stockpot.models.tokenizer import train_tokenizer
from stockpot.weights.checkpoint import open_checkpoint

OWN_CODE = ModelSpec(build="builders:plain", args={"width": 3})


@pytest.fixture
def own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.delitem(sys.modules, "builders", raising=False)


def same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    before, after = one.state_dict(), other.state_dict()
    assert list(before) == list(after)
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert torch.equal(tensor, after[name]), name


def scrambled(model: torch.nn.Module) -> torch.nn.Module:
    """Every tensor another one than it would be by itself."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape) if tensor.is_floating_point() else tensor + 3)
    return model


def test_every_architecture_survives_a_save_bitwise(config: dict[str, Any], tmp_path: Path) -> None:
    spec = ModelSpec(config=config)
    model = scrambled(start_model(spec, 5, seed=0))
    save_model(model, tmp_path, spec, 5)
    assert not list(tmp_path.glob("*.bin"))
    same(model, load_model(tmp_path, allow_code=False))
    from transformers import AutoModelForImageClassification

    same(model, AutoModelForImageClassification.from_pretrained(tmp_path))


def test_a_saved_folder_is_a_start_model(vit: dict[str, Any], tmp_path: Path) -> None:
    spec = ModelSpec(config=vit)
    model = scrambled(start_model(spec, 5, seed=0))
    save_model(model, tmp_path, spec, 5)
    same(model, start_model(ModelSpec(name=str(tmp_path)), 5, seed=9))
    wider = start_model(ModelSpec(name=str(tmp_path)), 6, seed=9)  # another head: everything else is kept
    for name, tensor in model.state_dict().items():
        assert torch.equal(wider.state_dict()[name], tensor) == ("classifier" not in name)


def test_drawn_weights_depend_on_the_seed_only(config: dict[str, Any]) -> None:
    spec = ModelSpec(config=config)
    torch.manual_seed(1)
    first = start_model(spec, 4, seed=3)
    torch.manual_seed(2)
    same(first, start_model(spec, 4, seed=3))
    other = start_model(spec, 4, seed=4).state_dict()
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())


@pytest.mark.usefixtures("own_code")
def test_a_built_model_survives_a_save_bitwise_with_its_arguments(tmp_path: Path) -> None:
    model = scrambled(start_model(OWN_CODE, 5, seed=0))
    save_model(model, tmp_path, OWN_CODE, 5)
    loaded = load_model(tmp_path, allow_code=True)
    same(model, loaded)
    assert loaded[1].out_features == 3
    built_in = ModelSpec(build="stockpot.models.networks:mlp", args={"inputs": 4, "hidden": [2]})
    (tmp_path / "mlp").mkdir()
    save_model(model := start_model(built_in, 2, seed=0), tmp_path / "mlp", built_in, 2)
    same(model, load_model(tmp_path / "mlp", allow_code=False))  # Stockpot's own code needs no leave


@pytest.mark.usefixtures("own_code")
def test_foreign_code_is_not_imported_without_leave(tmp_path: Path) -> None:
    save_model(start_model(OWN_CODE, 5, seed=0), tmp_path, OWN_CODE, 5)
    del sys.modules["builders"]
    assert needs_code(tmp_path) == "builders:plain"
    with pytest.raises(StockpotError, match=r"built by the code at 'builders:plain'.*--allow-code"):
        load_model(tmp_path, allow_code=False)
    assert "builders" not in sys.modules


@pytest.mark.usefixtures("own_code")
def test_damaged_weights_of_a_built_model_are_an_error(tmp_path: Path) -> None:
    save_model(start_model(OWN_CODE, 5, seed=0), tmp_path, OWN_CODE, 5)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(StockpotError, match=r"model\.safetensors does not fit builders:plain"):
        load_model(tmp_path, allow_code=True)


@pytest.mark.usefixtures("own_code")
@pytest.mark.parametrize(
    ("build", "args", "message"),
    [
        ("builders:plian", {}, r"builders:plian: builders has no 'plian'\. Did you mean 'plain'\?"),
        ("no_such_module:f", {}, r"no_such_module:f: there is no module 'no_such_module' on Python's path"),
        ("builders:plain", {"depth": 1}, r"builders:plain\(num_labels=5, …\): .*unexpected keyword argument 'depth'"),
        ("builders:not_a_model", {}, r"builders:not_a_model returned int, not a torch\.nn\.Module"),
    ],
)
def test_a_builder_that_cannot_build_is_an_error(build: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(StockpotError, match=rf"model\.build: {message}"):
        start_model(ModelSpec(build=build, args=args), 5, seed=0)


@pytest.mark.parametrize("pickled", [True, False])
def test_a_folder_without_safetensors_is_refused_before_anything_is_read(
    pickled: bool, vit: dict[str, Any], tmp_path: Path
) -> None:
    spec = ModelSpec(config=vit)
    save_model(start_model(spec, 5, seed=0), tmp_path, spec, 5)
    (tmp_path / "model.safetensors").unlink()
    if pickled:
        (tmp_path / "pytorch_model.bin").write_bytes(b"not even a pickle")
    message = "pickled weights" if pickled else "no weights"
    for attempt in (model_config, lambda spec: start_model(spec, 5, 0)):
        with pytest.raises(StockpotError, match=f"holds {message}.*not safetensors; pickles are never loaded"):
            attempt(ModelSpec(name=str(tmp_path)))


def test_a_model_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StockpotError, match=r"model\.name: .*nowhere: there is no such folder"):
        model_config(ModelSpec(name=str(tmp_path / "nowhere")))
    with pytest.raises(StockpotError, match=r"model\.name: nobody/nothing could not be opened"):
        model_config(ModelSpec(name="nobody/nothing"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "vitt"}, r"model\.config\.model_type: unknown: 'vitt'\. Did you mean 'vit'\?"),
        ({"hidden_sise": 8}, r"model\.config\.hidden_sise: vit has no such setting\. Did you mean 'hidden_size'\?"),
        ({"hidden_size": "x"}, r"model\.config: .*'hidden_size'.*expected int, got str"),
    ],
)
def test_a_mistake_in_a_configuration_is_an_error(change: dict[str, Any], message: str, vit: dict[str, Any]) -> None:
    with pytest.raises(StockpotError, match=message):
        start_model(ModelSpec(config={**vit, **change}), 3, seed=0)


def test_a_configuration_that_is_no_image_classifier_is_an_error() -> None:
    with pytest.raises(StockpotError, match=r"model_type: Transformers has no image classifier 'gpt2'"):
        start_model(ModelSpec(config={"model_type": "gpt2"}), 3, seed=0)


def test_the_name_of_every_tensor_leads_to_its_values_on_disk(config: dict[str, Any], tmp_path: Path) -> None:
    spec = ModelSpec(config=config)
    model = scrambled(start_model(spec, 5, seed=0))
    save_model(model, tmp_path, spec, 5)
    names = saved_names(model)
    assert names is not None
    assert set(names) == set(model.state_dict())
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert sorted(names.values()) == sorted(file.keys())
        for name, tensor in model.state_dict().items():
            assert torch.equal(file.get_tensor(names[name]), tensor), name


def test_a_checkpoint_is_read_by_the_models_own_names(config: dict[str, Any], tmp_path: Path) -> None:
    spec = ModelSpec(config=config)
    model = scrambled(start_model(spec, 5, seed=0))
    save_model(model, tmp_path, spec, 5)
    tensors, mapped = under_own_names(open_checkpoint(tmp_path), model)
    assert mapped
    for name, parameter in model.named_parameters():
        assert torch.equal(tensors[name], parameter)


def test_a_language_model_ends_where_its_tokenizer_ends_a_text(tmp_path: Path) -> None:
    """Llama's own configuration would say 1 and 2, which are letters to a tokenizer that was trained on the texts."""
    tokenizer = train_tokenizer([], 300)
    llama = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    model: Any = start_model(ModelSpec(config={**llama, "num_attention_heads": 2}), 0, 0, "language", tokenizer)
    for config in (model.config, model.generation_config):
        assert config.bos_token_id == config.eos_token_id == tokenizer.eos_token_id == 0
    assert model.generation_config.pad_token_id == 0
    assert model.config.pad_token_id is None  # else the embedding of what begins and ends a text would not be trained
    save_model(model, tmp_path, ModelSpec(config=llama), 0)
    assert load_model(tmp_path, False, kind="language").get_input_embeddings().padding_idx is None  # type: ignore[operator]

    tokenizer.add_special_tokens({"eos_token": "!"})  # of a chat, say: the model stops at both
    again: Any = start_model(ModelSpec(name=str(tmp_path)), 0, 0, "language", tokenizer)
    assert again.generation_config.eos_token_id == again.config.eos_token_id == [tokenizer.eos_token_id, 0]
    own = {**llama, "num_attention_heads": 2, "eos_token_id": 7, "pad_token_id": 9}
    fitted: Any = start_model(ModelSpec(config=own), 0, 0, "language", tokenizer)
    assert (fitted.config.eos_token_id, fitted.config.pad_token_id) == ([tokenizer.eos_token_id, 7], 9)
