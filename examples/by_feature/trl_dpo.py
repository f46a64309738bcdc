"""SFA in TRL's DPOTrainer: the same callback.

From pairs of a chosen and a rejected answer, a tiny Llama-style model learns to greet officials politely, then friends
casually, and is tested on both. Model and tokenizer are made here; nothing is downloaded.
"""

from __future__ import annotations

import copy
import tempfile

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback, set_seed
from trl import DPOConfig, DPOTrainer

import stockpot

OFFICIALS = ["judge", "mayor", "bishop", "general", "minister", "colonel", "senator", "admiral"]
FRIENDS = ["sister", "cousin", "neighbour", "roommate", "brother", "buddy", "teammate", "classmate"]


def pairs(task: str) -> list[dict[str, str]]:
    """What one task teaches: whom to greet, the answer to prefer and the one to avoid."""
    polite = task == "officials"
    chosen, rejected = (" welcome", " hey") if polite else (" hey", " welcome")
    whose = "the honourable" if polite else "my good"
    people = OFFICIALS if polite else FRIENDS
    return [{"prompt": f"greet {whose} {person} :", "chosen": chosen, "rejected": rejected} for person in people]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per word."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words = [" ".join(pair.values()) for pair in pairs("officials") + pairs("friends")]
    tokenizer.train_from_iterator(words, trainers.WordLevelTrainer(special_tokens=["<unk>", "<pad>", "<eos>"]))
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "<eos>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def train_task(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, task: str, *callbacks: TrainerCallback
) -> None:
    """Aligns with the preferences of one task; the reference of DPO is the model as the task starts."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = DPOConfig(
            output_dir=folder,
            num_train_epochs=30,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = DPOTrainer(
            model,
            ref_model=copy.deepcopy(model),
            args=arguments,
            train_dataset=Dataset.from_list(pairs(task)),
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        trainer.train()


def share_right(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, task: str) -> float:
    """The share of prompts to which the model gives the chosen answer a higher probability than the rejected one."""
    model.train(False)
    right = 0
    for pair in pairs(task):
        tokens = torch.tensor([tokenizer.encode(pair["prompt"], add_special_tokens=False)])
        chosen, rejected = tokenizer.convert_tokens_to_ids([pair["chosen"].strip(), pair["rejected"].strip()])
        with torch.no_grad():
            logits = model(tokens).logits[0, -1]
        right += int(logits[chosen] > logits[rejected])
    return right / len(pairs(task))


def right_on_both(beta: float) -> tuple[float, float]:
    """Share of right preferences on each task, after learning both in turn."""
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
    train_task(model, tokenizer, "officials")
    train_task(model, tokenizer, "friends", stockpot.SFACallback(beta=beta, p=0.1))
    return share_right(model, tokenizer, "officials"), share_right(model, tokenizer, "friends")


def main() -> None:
    """Trains twice, plainly and with SFA, and prints how much is left of each task."""
    for name, beta in (("plain", 0.0), ("SFA", 0.25)):
        first, second = right_on_both(beta)
        print(f"{name:5}  first task {first:.2f}  second task {second:.2f}  both {(first + second) / 2:.2f}")


if __name__ == "__main__":
    main()
