"""SFA for LoRA: a fresh adapter per task, folded into the weights when the task ends, and the same callback.

The two tasks of `trl_sft.py`: a model that knows the capitals of some countries is adapted to the colours of some
fruits; for a third task, `train_task` would be called again. A new adapter adds nothing yet (B = 0), so the weights
that it sits on are the anchor, and an average is B ← (1−β)·B: no copy is kept.
"""

from __future__ import annotations

import tempfile

import trl_sft
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

import stockpot


def train_task(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, task: str, *callbacks: TrainerCallback
) -> LlamaForCausalLM:
    """Trains a new adapter on the sentences of one task, and returns the model with the adapter folded in."""
    adapted = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            num_train_epochs=60,
            per_device_train_batch_size=4,
            learning_rate=4e-3,
            lr_scheduler_type="constant",
            max_length=16,
            bf16=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        data = Dataset.from_dict({"text": trl_sft.sentences(task)})
        trainer = SFTTrainer(
            adapted, arguments, train_dataset=data, processing_class=tokenizer, callbacks=list(callbacks)
        )
        trainer.train()
    return adapted.merge_and_unload()


def right_on_both(beta: float) -> tuple[float, float]:
    """Share of correct answers on each task, after learning both in turn."""
    set_seed(0)
    tokenizer = trl_sft.make_tokenizer()
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
    trl_sft.train_task(model, tokenizer, "capitals")  # what the model knows before it is adapted
    model = train_task(model, tokenizer, "colours", stockpot.SFACallback(beta=beta, p=0.1))
    first = trl_sft.share_right(model, tokenizer, "capitals")
    return first, trl_sft.share_right(model, tokenizer, "colours")


def main() -> None:
    """Trains twice, plainly and with SFA, and prints how much is left of each task."""
    for name, beta in (("plain", 0.0), ("SFA", 0.25)):
        first, second = right_on_both(beta)
        print(f"{name:5}  first task {first:.2f}  second task {second:.2f}  both {(first + second) / 2:.2f}")


if __name__ == "__main__":
    main()
