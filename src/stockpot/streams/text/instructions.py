"""Instructions with answers, in the columns of Alpaca: as prompt and completion, or as a chat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stockpot.errors import StockpotError
from stockpot.streams.recognition import ANSWERS, MORE_INPUT
from stockpot.streams.spec import DataSpec
from stockpot.streams.text.messages import check_column
from stockpot.streams.text.rows import Chat, Item, pair_of
from stockpot.streams.text.templates import open_template

# Taori et al., "Stanford Alpaca" (2023), https://github.com/tatsu-lab/stanford_alpaca
_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
_PROMPTS = ("instruction", "prompt", "question", "query", "problem")
_SYSTEM = "system"  # a column of system messages, in chats


def has_answers(data: DataSpec, names: Sequence[str]) -> bool:
    """Whether there are columns of prompts and answers, or keys that name them."""
    prompt = data.prompt or _named(_PROMPTS, names)
    return prompt is not None and (data.completion or _named(ANSWERS, names)) is not None


def read_instruction(
    data: DataSpec, names: Sequence[str], place: str, as_chat: bool
) -> tuple[list[str], Callable[[dict[str, Any]], Item]]:
    """The columns to read, and a function that makes a prompt with completion of a row, or a chat of two turns.

    In a chat the input stands below the instruction, after an empty line, and a column `system` is the system message.
    Raises StockpotError, starting with `place`, if there is no such column.
    """
    prompt = data.prompt or _named(_PROMPTS, names)
    completion = data.completion or _named(ANSWERS, names)
    for key, wanted in (("prompt", prompt), ("completion", completion)):
        if wanted is None:
            raise StockpotError(f"{place}: data.{key}: name the column, or give a template. Columns: {list(names)}.")
    if data.input is not None:
        check_column(data.input, names, "input", place)
    more = data.input or _named([name for name in MORE_INPUT if name not in (prompt, completion)], names)
    system = _SYSTEM if as_chat and _SYSTEM in names else None
    fill_prompt = open_template(str(prompt), names, f"{place}: data.prompt")
    fill_completion = open_template(str(completion), names, f"{place}: data.completion")
    columns = list(dict.fromkeys((*fill_prompt.columns, *fill_completion.columns, *filter(None, (more, system)))))

    def read(row: dict[str, Any]) -> Item:
        context = str(row[more] or "") if more else ""
        instruction, answer = fill_prompt(row), fill_completion(row)
        if not as_chat:
            template = _WITH_INPUT if context.strip() else _WITHOUT_INPUT
            return pair_of(template.format(instruction=instruction, input=context), answer)
        pair = pair_of(f"{instruction}\n\n{context}" if context.strip() else instruction, answer)
        opening = [{"role": "system", "content": str(row[system])}] if system and row[system] else []
        turns = [{"role": "user", "content": pair.prompt}, {"role": "assistant", "content": pair.completion}]
        return Chat([*opening, *turns])

    return columns, read


def _named(candidates: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in candidates if name in names), None)
