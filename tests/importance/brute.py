"""The same numbers by a loop over examples and classes, and the models that they are compared on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stockpot.batches.examples import TensorExamples
from stockpot.batches.outputs import evaluation_mode, logits_of

Weights = dict[str, Tensor]
CLASSES = 4


def by_loop(
    model: nn.Module, examples: TensorExamples, kind: str, logits: Callable[..., Tensor] = logits_of
) -> Weights:
    """Autograd on one example and one class at a time; MAS for the kind "sensitivity"."""
    parameters = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    total = {name: torch.zeros_like(tensor).detach() for name, tensor in parameters.items()}

    def add(value: Tensor, weight: float, power: int) -> None:
        found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        for into, gradient in zip(total.values(), found, strict=True):
            if gradient is not None:
                into.add_(gradient.abs() ** power, alpha=weight / len(examples))

    with evaluation_mode(model):
        for index in range(len(examples)):
            batch = examples.__getitems__([index])
            competing = logits(model, batch)[0].isfinite().nonzero().flatten().tolist()
            if kind == "sensitivity":
                add(logits(model, batch)[0, competing].square().sum(), 1.0, 1)
                continue
            for row in competing if kind == "exact" else [int(batch["labels"])]:
                log_p = logits(model, batch)[0].log_softmax(0)[row]
                add(log_p, float(log_p.detach().exp()) if kind == "exact" else 1.0, 2)
    return total


class Twice(nn.Module):
    """One layer, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.head = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        return self.head(torch.tanh(self.middle(torch.tanh(self.middle(x)))))


class Tied(nn.Module):
    """Two layers that share a weight, not a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.other(torch.tanh(self.one(x)))))


class Tokens(nn.Module):
    """Layers over (B, tokens, features), normalised; one of them has no bias."""

    def __init__(self, width: int = 5, flat: bool = False) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(3, width), nn.LayerNorm(width)
        self.second, self.rms = nn.Linear(width, width, bias=False), nn.RMSNorm(width, eps=1e-6)
        self.head, self.flat = nn.Linear(width, CLASSES), flat

    def forward(self, x: Tensor) -> Tensor:
        many = len(x)
        if self.flat:  # examples and tokens in one dimension
            x = x.flatten(0, 1)
        x = self.rms(torch.tanh(self.second(self.norm(self.first(x)).tanh())))
        return self.head(x.reshape(many, -1, x.shape[-1]).mean(1))


class TokensFirst(nn.Module):
    """The same (tokens, B, features): the first dimension is not that of the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(3, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.first(x.transpose(0, 1))).mean(0))


class Convolutions(nn.Module):
    """Stride, padding, groups, dilation; BatchNorm before an in-place ReLU; GroupNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, (3, 2), padding=(1, 0), groups=2), nn.GroupNorm(3, 6), nn.Tanh(),
            nn.Conv2d(6, 6, 2, dilation=2, groups=6, padding=1), nn.Tanh(),
            nn.Conv2d(6, 4, 3, padding="same", padding_mode="reflect"), nn.Tanh(),
        )  # fmt: skip
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class ChannelsFirst(nn.LayerNorm):
    """A subclass that normalises another dimension than its base does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Language(nn.Module):
    """Embedding and output layer tied, as in a language model; the positions are looked up once for all examples."""

    def __init__(self, words: int = 7, padding: int | None = None, tied: bool = True) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, 5, padding_idx=padding), nn.Embedding(6, 5)
        self.middle, self.head = nn.Linear(5, 5), nn.Linear(5, words, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1])[None])
        return self.head(torch.tanh(self.middle(x)).mean(1))


class OneRow(Language):
    """The same, which takes the positions out of their only row, and cannot where they are repeated."""

    def forward(self, ids: Tensor) -> Tensor:
        (places,) = self.places(torch.arange(ids.shape[1])[None])
        return self.head(torch.tanh(self.middle(self.words(ids) + places)).mean(1))


class Functional(nn.Module):
    """A weight that is also used outside its layer, where `x` says so; a parameter of no layer; one never used."""

    def __init__(self, always: bool = True) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.scale = nn.Parameter(torch.rand(6) + 0.5)
        self.idle, self.always = nn.Linear(2, 2), always

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x)) * self.scale
        if self.always:
            hidden = hidden + functional.linear(hidden, self.first.weight)
        elif bool((x[:, 0] > 50).any()):
            hidden = torch.where(x[:, :1] > 50, hidden + functional.linear(hidden, self.first.weight), hidden)
        return self.head(hidden)


class Refused(nn.Module):
    """What vmap refuses: it asks for the value of an element. Its weight is one that no layer knows of."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(6, 5)), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        rows = [row @ self.weight if row[0].item() > 0 else -(row @ self.weight) for row in x]
        return self.head(torch.tanh(torch.stack(rows)))


class Hidden(nn.Module):
    """A weight that is reached through a plain list, where functional_call cannot replace it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(6, 5)), nn.Linear(5, CLASSES)
        self.kept = [self.weight]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(x @ self.kept[0]))


class Experts(nn.Module):
    """Each example goes to one of two layers, which see other numbers of rows in every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(6, 5), nn.Linear(6, 5)])
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x.new_zeros(len(x), 5)
        for number, expert in enumerate(self.experts):
            where = ((x[:, 0] > 0).long() == number).nonzero().flatten()
            if len(where):
                hidden = hidden.index_copy(0, where, torch.tanh(expert(x[where])))
        return self.head(hidden)


def settled(model: nn.Module, norm: float = 0.3) -> nn.Module:
    """In float64, with running statistics and norms that are not those of a new model."""
    model = model.double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn_like(module.running_mean) * norm
            module.running_var = torch.rand_like(module.running_var) + 0.5
    for name, tensor in model.named_parameters():
        if name.endswith("bias") or tensor.ndim == 1:
            tensor.data += norm * torch.randn_like(tensor)
    return model


def clouds(*shape: int, many: int = 7, rows: int = CLASSES) -> TensorExamples:
    return TensorExamples(torch.randn(many, *shape, dtype=torch.float64), torch.arange(many) % rows)


def sentences(words: int, length: int = 4, many: int = 7, rows: int = CLASSES) -> TensorExamples:
    """Token ids, some twice in one example."""
    return TensorExamples(torch.randint(words, (many, length)), torch.arange(many) % rows)


def tiny_vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    sizes: dict[str, Any] = {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 12,
    }
    return ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=CLASSES))


def tiny_gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    sizes: dict[str, Any] = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 6, "vocab_size": 9}
    config = GPT2Config(**sizes, num_labels=CLASSES, pad_token_id=0)
    return GPT2ForSequenceClassification(config)


def tiny_bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes: dict[str, Any] = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 12,
    }
    config = BertConfig(**sizes, vocab_size=9, max_position_embeddings=6, num_labels=CLASSES)
    return BertForSequenceClassification(config)
