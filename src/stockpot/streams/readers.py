"""From the raw inputs of a task, images or texts, to examples for the model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch
from torch import Tensor

from stockpot.batches.examples import Batch, Examples, LazyExamples, TensorExamples
from stockpot.errors import StockpotError
from stockpot.streams.labelled import LabelledPart, Labels
from stockpot.streams.spec import DataSpec
from stockpot.streams.transforms import permute, rotate

_CHUNK = 512  # images processed at once
MEMORY_SHARE = 0.25  # of the free memory: what one part's tensors may take before they are read lazily


class ImageProcessor(Protocol):
    """PIL images → (B, C, H, W): see models/processor.py."""

    def __call__(self, images: list[Any]) -> Tensor: ...

    def save(self, folder: Path) -> None: ...


class Reader(Protocol):
    """Makes examples of a task's raw inputs."""

    noun: str  # `images` or `texts`, for messages

    @property
    def tokenizer(self) -> Any | None: ...

    def sample(self, inputs: list[Any], data: DataSpec, where: str) -> Batch: ...

    def read(self, part: LabelledPart, rows: Labels, outputs: Tensor, data: DataSpec, where: str) -> Examples: ...

    def save(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class ImageReader:
    """Images → tensors in memory where they fit; otherwise read and processed a batch at a time."""

    processor: ImageProcessor
    noun = "images"
    tokenizer = None

    def sample(self, inputs: list[Any], data: DataSpec, where: str) -> Batch:
        """The images as one batch."""
        return {"pixel_values": self._process(inputs, data)}

    def read(self, part: LabelledPart, rows: Labels, outputs: Tensor, data: DataSpec, where: str) -> Examples:
        """The examples of these rows of a part; `outputs` are their labels: see `Examples`."""
        first = self._process(part.pick(rows[:1]), data)
        in_memory = data.in_memory
        if in_memory is None:
            in_memory = first.nbytes * len(rows) <= MEMORY_SHARE * psutil.virtual_memory().available
        if not in_memory:
            return LazyExamples(_Picked(part, rows), partial(self._process, data=data), outputs, first.nbytes)
        chunks = [self._process(part.pick(rows[start : start + _CHUNK]), data) for start in range(0, len(rows), _CHUNK)]
        return TensorExamples(torch.cat(chunks), outputs)

    def save(self, folder: Path) -> None:
        """Writes the processor's own files, if it has any."""
        self.processor.save(folder)

    def _process(self, images: list[Any], data: DataSpec) -> Tensor:
        if isinstance(images[0], Tensor):  # of a data set of PyTorch: already as the model receives them
            if data.rotate:
                raise StockpotError("data.rotate turns images, and the data set gives tensors; rotate them in it.")
            return _stacked(images, data)
        if data.rotate:
            images = [rotate(image, data.rotate) for image in images]
        pixel_values = self.processor(images)
        return pixel_values if data.permute is None else permute(pixel_values, data.permute)


def _stacked(tensors: list[Tensor], data: DataSpec) -> Tensor:
    if len(shapes := {tuple(tensor.shape) for tensor in tensors}) > 1:
        first, second, *_ = sorted(shapes)
        raise StockpotError(f"data: the tensors have several shapes, {first} and {second}; give them all the same.")
    inputs = torch.stack(tensors)
    return inputs if data.permute is None else permute(inputs, data.permute)


@dataclass(frozen=True)
class TextReader:
    """Texts → token sequences for a classifier; long texts lose their end."""

    tokenizer: Any
    config: Any  # of the model, which limits the length of a text
    noun = "texts"

    def sample(self, inputs: list[Any], data: DataSpec, where: str) -> Batch:
        """The texts as one batch."""
        outputs = torch.zeros(len(inputs), dtype=torch.int64)
        return self._tokenise(inputs, outputs, data, where).__getitems__(range(len(inputs)))

    def read(self, part: LabelledPart, rows: Labels, outputs: Tensor, data: DataSpec, where: str) -> Examples:
        """The examples of these rows of a part; `outputs` are their labels: see `Examples`."""
        return self._tokenise(part.pick(rows), outputs, data, where)

    def save(self, folder: Path) -> None:
        """Writes the tokenizer's files."""
        self.tokenizer.save_pretrained(folder)

    def longest(self, data: DataSpec, where: str) -> int:
        """The most tokens of a text."""
        from stockpot.streams.text.tokens import sequence_length

        return sequence_length(data.max_length, self.config, where)

    def _tokenise(self, texts: list[str], outputs: Tensor, data: DataSpec, where: str) -> Examples:
        from stockpot.streams.text.tokens import classification_tokens

        return classification_tokens(texts, outputs, self.tokenizer, self.longest(data, where))


@dataclass(frozen=True)
class _Picked:
    """The chosen rows of a part, indexed by position."""

    part: LabelledPart
    rows: Labels

    def __getitem__(self, positions: list[int]) -> list[Any]:
        return self.part.pick(self.rows[positions])
