"""Writes tests/merging/golden: tiny models, merge configurations, and mergekit's results.

python benchmarks/merge/make_goldens.py        # in an environment with mergekit 0.1.5
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
import yaml
from mergekit.config import MergeConfiguration  # type: ignore[import-not-found, unused-ignore]
from mergekit.merge import run_merge  # type: ignore[import-not-found, unused-ignore]
from mergekit.options import MergeOptions  # type: ignore[import-not-found, unused-ignore]
from safetensors.torch import load_file, save_file
from torch import Tensor

GOLDEN = Path(__file__).parents[2] / "tests" / "merging" / "golden"
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 8,
    "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 12,
    "tie_word_embeddings": False, "max_position_embeddings": 32, "rms_norm_eps": 1e-6,
}  # fmt: skip
SHAPES: dict[str, tuple[int, ...]] = {
    "input_layernorm": (16,), "post_attention_layernorm": (16,),
    "self_attn.q_proj": (16, 16), "self_attn.k_proj": (8, 16), "self_attn.v_proj": (8, 16),
    "self_attn.o_proj": (16, 16), "mlp.gate_proj": (8, 16), "mlp.up_proj": (8, 16), "mlp.down_proj": (16, 8),
}  # fmt: skip
NAMES = {
    "model.embed_tokens.weight": (12, 16),
    **{f"model.layers.{layer}.{name}.weight": shape for layer in range(4) for name, shape in SHAPES.items()},
    "model.norm.weight": (16,),
    "lm_head.weight": (12, 16),
}
# Relative to the base, whose elements are about 1, `near` is almost parallel and `far` almost orthogonal.
CHANGES = {"near": 0.01, "mid": 0.3, "far": 5.0}

BLEND = """
merge_method: {method}
base_model: base
models:
  - model: near
    parameters: {{weight: 0.6{near}}}
  - model: mid
    parameters: {{weight: 1.2{mid}}}
  - model: far
    parameters: {{weight: 0.3{far}}}
parameters: {{{shared}}}
dtype: float32
"""
PAIR = """
merge_method: {method}
base_model: base
slices:
  - sources:
      - {{model: base, layer_range: [0, 4]}}
      - {{model: {other}, layer_range: [0, 4]}}
parameters: {{t: {t}}}
dtype: float32
"""
NUSLERP = """
merge_method: nuslerp
{base}
models:
  - {{model: mid, parameters: {{weight: 0.7}}}}
  - {{model: far, parameters: {{weight: 0.5}}}}
parameters: {{{shared}}}
dtype: float32
"""
STOCK = """
merge_method: model_stock
base_model: base
models: [{{model: near}}, {{model: mid}}, {{model: far}}]
parameters: {{filter_wise: {rows}}}
dtype: float32
"""
T = "[{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}, {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}, {value: 0.5}]"


def blend(method: str, shared: str = "", near: str = "", mid: str = "", far: str = "") -> str:
    """A merge of three models of one base."""
    return BLEND.format(method=method, shared=shared, near=near, mid=mid, far=far)


CASES = {
    "linear": """
merge_method: linear
models:
  - {model: near, parameters: {weight: 0.5}}
  - {model: mid, parameters: {weight: [0.2, 0.9]}}
  - {model: far, parameters: {weight: [{filter: mlp, value: 0.25}, {value: 2}]}}
dtype: float32
""",
    "linear_sum": """
merge_method: linear
models:
  - {model: base, parameters: {weight: 0.4}}
  - {model: mid, parameters: {weight: 0.9}}
  - {model: far, parameters: {weight: -0.5}}
parameters: {normalize: false}
dtype: float32
""",
    "slerp_near": PAIR.format(method="slerp", other="near", t=0.3),
    "slerp_far": PAIR.format(method="slerp", other="far", t=0.3),
    "slerp_gradient": PAIR.format(method="slerp", other="mid", t=T),
    "nuslerp": NUSLERP.format(base="", shared=""),
    "nuslerp_base": NUSLERP.format(base="base_model: base", shared=""),
    "nuslerp_rows": NUSLERP.format(base="", shared="nuslerp_flatten: false, nuslerp_row_wise: false"),
    "nuslerp_columns": NUSLERP.format(base="base_model: base", shared="nuslerp_flatten: false, nuslerp_row_wise: true"),
    "task_arithmetic": """
merge_method: task_arithmetic
base_model: base
models:
  - model: base
  - {model: mid, parameters: {weight: 0.8}}
  - {model: far, parameters: {weight: -0.1}}
parameters: {lambda: 0.7}
dtype: float32
""",
    "ties_dense": blend("ties", "density: 0.7"),
    "ties_sparse": blend("ties", "density: 0.3, normalize: false, int8_mask: true, lambda: 0.9"),
    "ties_gradient": blend("ties", near=", density: [1, 0.7, 0.1]", mid=", density: 0.3", far=", density: [0.2, 0.9]"),
    "breadcrumbs": blend("breadcrumbs", "density: 0.9, gamma: 0.05"),
    "breadcrumbs_ties": blend("breadcrumbs_ties", "density: 0.6, normalize: true", mid=", gamma: 0.1"),
    "model_stock": STOCK.format(rows="false"),
    "model_stock_rows": STOCK.format(rows="true"),
    "linear_slices": """
merge_method: linear
slices:
  - sources:
      - {model: near, layer_range: [0, 2], parameters: {weight: [{filter: layers.0., value: 0.9}, {value: 0.4}]}}
      - model: far
        layer_range: [2, 4]
        parameters: {weight: [{filter: layers.2., value: 0.1}, {filter: mlp, value: [0.1, 0.7]}]}
    parameters: {weight: 0.3}
  - sources:
      - {model: mid, layer_range: [3, 4], parameters: {weight: [0.1, 2]}}
      - {model: base, layer_range: [0, 1]}
parameters:
  weight: 0.6
  normalize: [{filter: layers.0., value: false}, {filter: layers.2., value: false}, {value: true}]
dtype: float32
""",
    "passthrough": """
merge_method: passthrough
slices:
  - sources: [{model: near, layer_range: [0, 3]}]
  - sources:
      - {model: far, layer_range: [1, 4], parameters: {scale: [{filter: o_proj, value: 0.5}, {value: 1}]}}
dtype: float32
""",
}
# Also written in bfloat16: the same arithmetic, with another rounding at the end.
ALSO_HALF = ("linear", "slerp_gradient", "nuslerp_rows", "task_arithmetic", "ties_dense", "breadcrumbs", "model_stock")


def models() -> dict[str, dict[str, Tensor]]:
    """The base, and models at three distances from it."""
    draw = torch.Generator().manual_seed(0)

    def normal() -> dict[str, Tensor]:
        return {name: torch.randn(shape, generator=draw) for name, shape in NAMES.items()}

    base = normal()
    changes = {name: (scale, normal()) for name, scale in CHANGES.items()}
    return {"base": base} | {
        name: {key: base[key] + scale * change[key] for key in base} for name, (scale, change) in changes.items()
    }


def main() -> None:
    """Writes all files again."""
    shutil.rmtree(GOLDEN, ignore_errors=True)
    for name, state in models().items():
        folder = GOLDEN / "models" / name
        folder.mkdir(parents=True)
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    cases = {name: text.strip() + "\n" for name, text in CASES.items()}
    cases |= {f"{name}_bf16": cases[name] + "out_dtype: bfloat16\n" for name in ALSO_HALF}
    os.chdir(GOLDEN / "models")
    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
    for name, text in cases.items():
        (GOLDEN / f"{name}.yaml").write_text(text)
        with tempfile.TemporaryDirectory() as output:
            run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), output, options)
            save_file(load_file(Path(output) / "model.safetensors"), GOLDEN / f"{name}.safetensors")
    print(f"{len(cases)} merges, {sum(file.stat().st_size for file in GOLDEN.rglob('*')):,} bytes")


if __name__ == "__main__":
    main()
