"""The first training examples of a task as the model sees them."""

from __future__ import annotations

import math
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stockpot.batches.examples import IGNORED, Batch, Examples
from stockpot.batches.losses import SINGLE_LABEL
from stockpot.checking.outcome import ShownImage, ShownText, TextPiece
from stockpot.file_names import as_file_name
from stockpot.streams.stream import StreamTask

MOST_TOKENS = 400  # of an example that is shown
_COLUMNS = 8  # pictures in a row of a contact sheet
_SIDE = 96  # pixels, at least, of a picture in it


class LabelWords:
    """What an example's label says, in words: its class, the labels that it has, or numbers by name."""

    def __init__(self, task: StreamTask) -> None:
        self._names = dict(zip(task.rows, task.classes, strict=True))
        self._problem = task.data.problem

    def __call__(self, label: Tensor) -> str:
        """Of the output row of a class, or of a value for each output row, NaN where none is known."""
        if self._problem == SINGLE_LABEL:
            return self._names[int(label)]
        values = {name: float(label[row]) for row, name in self._names.items() if not math.isnan(float(label[row]))}
        if self._problem == "regression":
            return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        return ", ".join(name for name, value in values.items() if value) or "none"


def shown_texts(examples: Examples, count: int, tokenizer: Any, words: LabelWords) -> list[ShownText]:
    """The first `count` sequences."""
    return [_shown_text(examples.__getitems__([index]), tokenizer, words) for index in range(min(count, len(examples)))]


def _shown_text(batch: Batch, tokenizer: Any, words: LabelWords) -> ShownText:
    tokens, labels = batch["input_ids"][0].tolist(), batch["labels"]
    if "decoder_input_ids" in batch:
        return _shown_answer(tokens, labels[0].tolist(), tokenizer)
    if labels.shape != batch["input_ids"].shape or labels.is_floating_point():
        text = tokenizer.decode(tokens[:MOST_TOKENS], clean_up_tokenization_spaces=False)
        left_out = max(0, len(tokens) - MOST_TOKENS)
        return ShownText([TextPiece(text, False)], len(tokens), left_out, words(labels[0]))
    targets = labels[0].tolist()  # at every position the next token, or IGNORED
    whole = [*tokens, *([] if targets[-1] == IGNORED else targets[-1:])]
    learnt = [False, *(target != IGNORED for target in targets)][: len(whole)]
    left_out = max(0, len(whole) - MOST_TOKENS)
    pairs = list(zip(learnt, whole, strict=True))[:MOST_TOKENS]
    pieces = [
        TextPiece(tokenizer.decode([token for _, token in run], clean_up_tokenization_spaces=False), has_loss)
        for has_loss, run in groupby(pairs, key=lambda pair: pair[0])
    ]
    return ShownText(pieces, len(whole), left_out)


def _shown_answer(prompt: list[int], targets: list[int], tokenizer: Any) -> ShownText:
    """What an encoder reads, and what a decoder is to write."""
    answer = [target for target in targets if target != IGNORED]
    parts = (prompt[:MOST_TOKENS], False), (answer[: max(0, MOST_TOKENS - len(prompt))], True)
    pieces = [
        TextPiece(tokenizer.decode(tokens, clean_up_tokenization_spaces=False), has_loss)
        for tokens, has_loss in parts
        if tokens
    ]
    many = len(prompt) + len(answer)
    return ShownText(pieces, many, max(0, many - MOST_TOKENS))


def shown_images(examples: Examples, count: int, words: LabelWords) -> list[ShownImage]:
    """The first `count` images."""
    if not (many := min(count, len(examples))):
        return []
    batch = examples.__getitems__(range(many))
    return [
        ShownImage(words(label), tuple(image.shape), float(image.mean()), float(image.min()), float(image.max()))
        for image, label in zip(batch["pixel_values"].float(), batch["labels"], strict=True)
    ]


def contact_sheet(examples: Examples, count: int, words: LabelWords, task: str, folder: Path) -> Path:
    """Writes the first `count` images after the processor as one PNG, each above its class; returns the file.

    Their smallest value becomes black and their largest white, over all of them together.
    """
    from PIL import Image, ImageDraw

    batch = examples.__getitems__(range(min(count, len(examples))))
    pixels = batch["pixel_values"].float()
    low, high = float(pixels.min()), float(pixels.max())
    scaled = ((pixels - low) / (high - low if high > low else 1.0) * 255).round().to(torch.uint8)
    if scaled.shape[1] not in (1, 3):
        scaled = scaled[:, :1]
    scale = max(1, -(-_SIDE // max(scaled.shape[-2:])))
    height, width = (side * scale for side in scaled.shape[-2:])
    columns = min(_COLUMNS, len(scaled))
    sheet = Image.new("RGB", (columns * (width + 8) + 8, -(-len(scaled) // columns) * (height + 24) + 8), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (image, label) in enumerate(zip(scaled, batch["labels"], strict=True)):
        left, top = 8 + number % columns * (width + 8), 8 + number // columns * (height + 24)
        picture = Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).convert("RGB")
        sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (left, top))
        draw.text((left, top + height + 2), words(label).encode("latin-1", "replace").decode("latin-1"), fill="black")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{as_file_name(task, 'task')}.png"
    sheet.save(file)
    return file
