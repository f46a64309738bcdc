"""Models of many families, tiny: how each is configured, and where its layers, embeddings and heads are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import transformers
from transformers import PreTrainedModel

SMALL: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2}
TEXT: dict[str, Any] = SMALL | {"vocab_size": 20, "max_position_embeddings": 16}
GROUPED: dict[str, Any] = TEXT | {"num_key_value_heads": 1}
PAIR: dict[str, Any] = {
    "d_model": 8,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 12,
    "vocab_size": 20,
}
WORDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
IMAGES: dict[str, Any] = {"image_size": 8, "patch_size": 4}
DEEP: dict[str, Any] = SMALL | IMAGES | {"num_hidden_layers": 5}  # a tower that is deeper than the language model


@dataclass(frozen=True)
class Family:
    """A model class with its configuration; its stacks by the names of their layers, with the count's place.

    `feed` is a tensor before the layers, `head` one behind them.
    """

    kind: str
    config: dict[str, Any]
    stacks: dict[str, str]
    feed: str
    head: str

    def build(self) -> PreTrainedModel:
        kind = getattr(transformers, self.kind)
        built: PreTrainedModel = kind(kind.config_class(**self.config))
        return built


EMBED = "model.embed_tokens.weight"
LAYERS = {"model.layers.": "num_hidden_layers"}
FAMILIES = {
    "llama": Family("LlamaForCausalLM", GROUPED, LAYERS, EMBED, "lm_head.weight"),
    "mistral": Family("MistralForCausalLM", GROUPED, LAYERS, EMBED, "lm_head.weight"),
    "qwen2": Family("Qwen2ForCausalLM", GROUPED, LAYERS, EMBED, "lm_head.weight"),
    "gemma2": Family("Gemma2ForCausalLM", GROUPED | {"head_dim": 4}, LAYERS, EMBED, "model.norm.weight"),
    "gpt2": Family(
        "GPT2LMHeadModel",
        dict(n_embd=8, n_layer=3, n_head=2, n_positions=16, vocab_size=20, **WORDS),
        {"transformer.h.": "n_layer"},
        "transformer.wte.weight",
        "transformer.ln_f.weight",
    ),
    "gpt_neox": Family(
        "GPTNeoXForCausalLM",
        TEXT,
        {"gpt_neox.layers.": "num_hidden_layers"},
        "gpt_neox.embed_in.weight",
        "embed_out.weight",
    ),
    "gpt_neo": Family(
        "GPTNeoForCausalLM",
        dict(
            hidden_size=8,
            num_layers=4,
            num_heads=2,
            attention_types=[[["global", "local"], 2]],
            vocab_size=20,
            max_position_embeddings=16,
            **WORDS,
        ),
        {"transformer.h.": "num_layers"},
        "transformer.wte.weight",
        "transformer.ln_f.weight",
    ),
    "phi": Family("PhiForCausalLM", TEXT, LAYERS, EMBED, "lm_head.bias"),
    "bert": Family(
        "BertForMaskedLM",
        TEXT,
        {"bert.encoder.layer.": "num_hidden_layers"},
        "bert.embeddings.LayerNorm.weight",
        "cls.predictions.bias",
    ),
    "vit": Family(
        "ViTForImageClassification",
        SMALL | IMAGES,
        {"vit.encoder.layer.": "num_hidden_layers"},
        "vit.embeddings.cls_token",
        "classifier.weight",
    ),
    "t5": Family(
        "T5ForConditionalGeneration",
        {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 3, "num_heads": 2, "vocab_size": 20},
        {"encoder.block.": "num_layers", "decoder.block.": "num_decoder_layers"},
        "shared.weight",
        "decoder.final_layer_norm.weight",
    ),
    "bart": Family(
        "BartForConditionalGeneration",
        PAIR | {"max_position_embeddings": 16},
        {"model.encoder.layers.": "encoder_layers", "model.decoder.layers.": "decoder_layers"},
        "model.shared.weight",
        "final_logits_bias",
    ),
    "whisper": Family(
        "WhisperForConditionalGeneration",
        PAIR
        | WORDS
        | {"num_mel_bins": 4, "max_source_positions": 8, "max_target_positions": 8, "decoder_start_token_id": 1},
        {"model.encoder.layers.": "encoder_layers", "model.decoder.layers.": "decoder_layers"},
        "model.encoder.conv1.weight",
        "model.decoder.layer_norm.weight",
    ),
    "qwen2_vl": Family(
        "Qwen2VLForConditionalGeneration",
        {
            "text_config": GROUPED | WORDS | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 0]}},
            "vision_config": {
                "depth": 5,
                "embed_dim": 8,
                "hidden_size": 8,
                "num_heads": 2,
                "mlp_ratio": 1,
                "patch_size": 4,
            },
            "vision_start_token_id": 3,
            "vision_end_token_id": 4,
            "image_token_id": 5,
            "video_token_id": 6,
        },
        {"model.layers.": "text_config.num_hidden_layers"},
        "visual.merger.ln_q.weight",
        "lm_head.weight",
    ),
    "paligemma": Family(
        "PaliGemmaForConditionalGeneration",
        {
            "text_config": GROUPED | {"model_type": "gemma", "head_dim": 4},
            "vision_config": DEEP,
            "projection_dim": 8,
            "image_token_index": 5,
        },
        {"language_model.model.layers.": "text_config.num_hidden_layers"},
        "vision_tower.head.probe",
        "language_model.model.norm.weight",
    ),
    "llava": Family(
        "LlavaForConditionalGeneration",
        {
            "text_config": GROUPED | {"model_type": "llama"},
            "vision_config": DEEP | {"model_type": "clip_vision_model"},
            "image_token_index": 5,
        },
        {"language_model.model.layers.": "text_config.num_hidden_layers"},
        "multi_modal_projector.linear_1.weight",
        "language_model.lm_head.weight",
    ),
    "mixtral": Family("MixtralForCausalLM", GROUPED | {"num_local_experts": 2}, LAYERS, EMBED, "lm_head.weight"),
}
