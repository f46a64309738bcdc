"""The `model` block of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stockpot.models.lora import LoraSpec
from stockpot.strict import FreeBlock, StrictModel

NETWORKS = "stockpot.models.networks:"  # builders of Stockpot's own: importing them needs no consent
Origin = Literal["checkpoint", "random", "code"]
ModelKind = Literal["image", "text", "language"]  # what a model does: classify images or texts, or continue texts


class TrainedTokenizer(StrictModel):
    """A byte-level BPE tokenizer, trained on the stream's training texts before the first task."""

    train: int = Field(ge=300, description="tokens in the vocabulary; fewer if the texts are too short")


class ModelSpec(StrictModel):
    """The start model: exactly one of `name`, `config` and `build`."""

    name: str | None = Field(None, description="a Transformers model or a LoRA adapter: hub name or local folder")
    adapter: Literal["fold", "stack"] | None = Field(
        None,
        description="where `name` is a LoRA adapter: fold it into its base, or keep it frozen beside it under the new "
        "ones; default: stack with lora.output: adapter, else fold",
    )
    base: str | None = Field(
        None, description="the model that the adapter `name` sits on, if not the one that its adapter_config.json names"
    )
    config: FreeBlock | None = Field(None, description="a Transformers configuration, `model_type` among its keys")
    build: str | None = Field(None, description="package.module:function that returns a torch.nn.Module")
    args: FreeBlock = Field(default_factory=dict, description="keyword arguments of `build`, beside `num_labels`")
    drawn: list[str] | None = Field(
        None,
        description="of a `build` model that loads a checkpoint: the layers or tensors that it draws at random, "
        "such as the output layer ([] if none)",
    )
    revision: str | None = Field(None, description="branch, tag or commit of a hub model")
    head: str | None = Field(None, description="name of the output layer, if its shape does not identify it")
    image_processor: FreeBlock | str | None = Field(
        None,
        description="settings (size, image_mean, …) that change the model's own processor, or another's name; of "
        "`build` models size, channels, pad (pixels of black on each side), image_mean and image_std",
    )
    tokenizer: str | TrainedTokenizer | None = Field(
        None,
        description="another model's name or folder, or {train: vocabulary size} to train one on the stream's texts",
    )
    chat_template: str | None = Field(None, description="a Jinja template, if the tokenizer has none")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the weights; bfloat16 only under LoRA, or with the method's `rounding`"
    )
    lora: LoraSpec | None = Field(None, description="train a fresh LoRA adapter for each task, not the weights")
    quantize: Literal["4bit", "8bit"] | None = Field(
        None,
        description="hold the linear layers in 4 bits (NF4) or 8 through bitsandbytes; needs lora.output: adapter",
    )
    trust_remote_code: bool = Field(False, description="run code that comes with a hub model: only if you trust it")

    @property
    def origin(self) -> Origin:
        """Where the start weights come from: a checkpoint (hub, folder or run), random numbers, or the user's code."""
        if self.name is not None or self.drawn is not None:
            return "checkpoint"
        return "code" if self.build is not None and not self.build.startswith(NETWORKS) else "random"

    @property
    def adapts(self) -> bool:
        """Whether a task leaves an adapter for the start model instead of a whole model."""
        return self.lora is not None and self.lora.output == "adapter"

    @property
    def merged_instead(self) -> str:
        """What to change for a method that needs merged weights, where tasks leave adapters."""
        return (
            "drop model.quantize, and set lora.output: merged"
            if self.quantize
            else "with model.lora set output: merged"
        )

    @model_validator(mode="after")
    def _quantised_bases_carry_adapters(self) -> ModelSpec:
        if self.quantize is None:
            return self
        if self.name is None:
            raise ValueError("quantize: bitsandbytes quantises a model while it is loaded; give model.name")
        if not self.adapts:
            raise ValueError(
                "quantize: weights in few bits are not trained themselves, and ΔW would round away in them, so a whole "
                "model cannot be written; set lora: {output: adapter}"
            )
        return self

    @model_validator(mode="after")
    def _adapters_fit_what_is_trained(self) -> ModelSpec:
        for key in ("adapter", "base"):
            if getattr(self, key) is not None and self.name is None:
                raise ValueError(f"{key}: it says how to start from an adapter, which model.name names")
        if self.adapter == "stack" and not self.adapts:
            raise ValueError(
                "adapter: stack keeps the adapter beside its base, and so the result is one: set lora: {output: "
                "adapter}, or adapter: fold"
            )
        if self.adapter == "fold" and self.quantize is not None:
            raise ValueError("adapter: ΔW would round away in a base of few bits; set adapter: stack")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> ModelSpec:
        origins = [key for key in ("name", "config", "build") if getattr(self, key) is not None]
        if len(origins) != 1:
            raise ValueError(f"give exactly one of name, config and build; {' and '.join(origins) or 'none'} given")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("config needs the key model_type, such as vit or resnet")
        if self.build is not None and self.build.count(":") != 1:
            raise ValueError(f"build must read package.module:function, not {self.build!r}")
        if self.build is None and self.args:
            raise ValueError("args belongs to build; the settings of a Transformers model go into config")
        if self.build is None and self.drawn is not None:
            raise ValueError("drawn belongs to build; what a Transformers checkpoint lacks is known")
        if self.build is not None and (self.tokenizer or self.lora or self.chat_template):
            raise ValueError("tokenizer, chat_template and lora are for Transformers models, not for build")
        if self.dtype == "bfloat16" and self.lora is not None and not self.adapts:
            raise ValueError(
                "dtype: most of ΔW would round away in bfloat16 weights; set lora.output: adapter, or drop dtype and "
                "set train.bf16: true"
            )
        return self
