"""SFA in TRL's SFTTrainer: the same callback.

A tiny Llama-style model learns the capitals of some countries, then the colours of some fruits, and is tested on both.
Model and tokenizer are made here; nothing is downloaded.
"""

from __future__ import annotations

import tempfile

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

import stockpot

CAPITALS = {
    "france": "paris", "italy": "rome", "spain": "madrid", "japan": "tokyo", "peru": "lima", "egypt": "cairo",
    "kenya": "nairobi", "norway": "oslo",
}  # fmt: skip
COLOURS = {
    "lemon": "yellow", "plum": "purple", "lime": "green", "cherry": "red", "coconut": "white", "orange": "orange",
    "blueberry": "blue", "blackberry": "black",
}  # fmt: skip


def sentences(task: str) -> list[str]:
    """What one task teaches, one sentence per line."""
    if task == "capitals":
        return [f"the capital of {country} is {city}" for country, city in CAPITALS.items()]
    return [f"the colour of {fruit} is {colour}" for fruit, colour in COLOURS.items()]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per word."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words = sentences("capitals") + sentences("colours")
    tokenizer.train_from_iterator(words, trainers.WordLevelTrainer(special_tokens=["<unk>", "<pad>", "<eos>"]))
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "<eos>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def train_task(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, task: str, *callbacks: TrainerCallback
) -> None:
    """Fine-tunes on the sentences of one task."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            num_train_epochs=25,
            per_device_train_batch_size=4,
            learning_rate=2e-3,
            lr_scheduler_type="constant",
            max_length=16,
            bf16=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        data = Dataset.from_dict({"text": sentences(task)})
        trainer = SFTTrainer(
            model, arguments, train_dataset=data, processing_class=tokenizer, callbacks=list(callbacks)
        )
        trainer.train()


def share_right(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, task: str) -> float:
    """The share of sentences whose last word the model finds."""
    model.train(False)
    right = 0
    for sentence in sentences(task):
        tokens = torch.tensor([tokenizer.encode(sentence, add_special_tokens=False)])
        with torch.no_grad():
            right += int(model(tokens[:, :-1]).logits[0, -1].argmax() == tokens[0, -1])
    return right / len(sentences(task))


def right_on_both(beta: float) -> tuple[float, float]:
    """Share of correct answers on each task, after learning both in turn."""
    set_seed(0)
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    train_task(model, tokenizer, "capitals")
    train_task(model, tokenizer, "colours", stockpot.SFACallback(beta=beta, p=0.1))
    return share_right(model, tokenizer, "capitals"), share_right(model, tokenizer, "colours")


def main() -> None:
    """Trains twice, plainly and with SFA, and prints how much is left of each task."""
    for name, beta in (("plain", 0.0), ("SFA", 0.25)):
        first, second = right_on_both(beta)
        print(f"{name:5}  first task {first:.2f}  second task {second:.2f}  both {(first + second) / 2:.2f}")


if __name__ == "__main__":
    main()
