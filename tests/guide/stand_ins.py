"""What the guide's pages name on the hub, made small, in folders of the same names: a folder comes before the hub."""

from __future__ import annotations

import json
from pathlib import Path

CHAT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
GENERAL_TEXT = "Salesforce/wikitext"
_CONFIG = """\
---
configs:
  - config_name: wikitext-2-raw-v1
    data_files: [{split: train, path: train.jsonl}, {split: test, path: test.jsonl}]
---
"""


def make_stand_ins(folder: Path) -> None:
    """Writes a chat model of one layer, and a data set of two splits."""
    from stockpot.models.spec import ModelSpec
    from stockpot.models.start import start_model
    from stockpot.models.store import save_model
    from stockpot.models.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["Where is order 12345? Order 67890 is on its way. May I return"] * 9, 300)
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    llama = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
             "num_attention_heads": 2, "max_position_embeddings": 256}  # fmt: skip
    spec = ModelSpec(config=llama)
    save_model(start_model(spec, 0, 0, "language", tokenizer), folder / CHAT_MODEL, spec, 0)
    tokenizer.save_pretrained(folder / CHAT_MODEL)

    texts = folder / GENERAL_TEXT
    texts.mkdir(parents=True)
    (texts / "README.md").write_text(_CONFIG)
    for split in ("train", "test"):
        rows = [json.dumps({"text": f"In the year {year} something else was on the stove."}) for year in range(8)]
        (texts / f"{split}.jsonl").write_text("\n".join(rows))
