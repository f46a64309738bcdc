"""Models for work that no stream has are refused by name, with what the work would need and what there is instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stockpot.errors import StockpotError
from stockpot.models.pretrained import check_kind, model_config
from stockpot.models.spec import ModelKind, ModelSpec
from stockpot.recipe.read import validate
from stockpot.recipe.schema import Recipe
from stockpot.runs.session import open_stream


def checkpoint(folder: Path, architecture: str, model_type: str, **config: Any) -> ModelSpec:
    values = {"model_type": model_type, "architectures": [architecture], **config}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "model.safetensors").touch()  # it is refused before any weight is read
    return ModelSpec(name=str(folder))


def refusal(spec: ModelSpec, kind: ModelKind) -> str:
    with pytest.raises(StockpotError) as caught:
        check_kind(spec, model_config(spec), kind)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "model_type", "kind", "message"),
    [
        ("BertForTokenClassification", "bert", "text", "token classification, which is not supported: .* need a label"),
        ("BertForQuestionAnswering", "bert", "text", "extractive question answering, .* where the answer starts"),
        ("BeitForSemanticSegmentation", "beit", "image", "segmentation, .* a class for every pixel"),
        ("DetrForObjectDetection", "detr", "image", "object detection, .* boxes in every image"),
        ("Wav2Vec2ForCTC", "wav2vec2", "language", "speech, .* audio, and the word"),
        ("WhisperForConditionalGeneration", "whisper", "language", "speech, .* audio, and the word"),
        ("LlavaForConditionalGeneration", "llava", "language", "texts about images, .* images beside the prompts"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_other_work_is_refused(
    architecture: str, model_type: str, kind: ModelKind, message: str, tmp_path: Path
) -> None:
    import re

    reason = refusal(checkpoint(tmp_path, architecture, model_type), kind)
    assert re.search(f"model.name: {re.escape(str(tmp_path))}: {architecture} is for {message}", reason)
    assert reason.endswith("language models, causal or with an encoder and a decoder.")


@pytest.mark.parametrize(
    ("model_type", "kind", "message"),
    [
        ("whisper", "language", "model.config.model_type: whisper is for speech"),
        ("hubert", "text", "hubert is for speech"),
        ("detr", "image", "detr is for object detection"),
        ("segformer", "language", "segformer is for segmentation"),
        ("vit", "language", "Transformers has no causal language model 'vit'"),
        ("bert", "image", "Transformers has no image classifier 'bert'"),
    ],
)
def test_so_is_a_configuration(model_type: str, kind: ModelKind, message: str) -> None:
    assert message in refusal(ModelSpec(config={"model_type": model_type}), kind)


@pytest.mark.parametrize(
    ("architecture", "model_type", "kind"),
    [
        ("BertForMaskedLM", "bert", "text"),
        ("T5ForConditionalGeneration", "t5", "language"),
        ("LlamaForCausalLM", "llama", "language"),
        ("CLIPModel", "clip", "image"),
        ("LlamaForCausalLM", "llama", "text"),
    ],
)
def test_what_a_stream_can_start_from_is_not(
    architecture: str, model_type: str, kind: ModelKind, tmp_path: Path
) -> None:
    spec = checkpoint(tmp_path, architecture, model_type)
    check_kind(spec, model_config(spec), kind)


def test_a_run_says_it_before_it_looks_for_a_tokenizer(tmp_path: Path) -> None:
    spec = checkpoint(tmp_path, "WhisperForConditionalGeneration", "whisper")
    values = {
        "model": {"name": spec.name},
        "scenario": "language",
        "tasks": [{"name": "a", "data": {"path": "x.jsonl"}}],
    }
    with pytest.raises(StockpotError, match="WhisperForConditionalGeneration is for speech"):
        open_stream(validate(Recipe, values, "here"))
