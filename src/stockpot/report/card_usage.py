"""How a model card says to use the model: a few lines of Python that fit what it is."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any

HERE = "PATH/OF/THIS/FOLDER"  # where the model is, on a card that was not written for the hub
# For each kind of model: what hubs call its work, and Transformers' class for it.
KINDS = {
    "image": ("image-classification", "AutoModelForImageClassification"),
    "text": ("text-classification", "AutoModelForSequenceClassification"),
    "language": ("text-generation", "AutoModelForCausalLM"),
    "answers": ("text2text-generation", "AutoModelForSeq2SeqLM"),
}


def usage(kind: str, recipe: Mapping[str, Any], place: str, adapter: bool, chats: bool) -> str:
    """Code that loads the model and asks it once.

    Args:
        kind: what the model does, a key of KINDS.
        recipe: the run's, resolved.
        place: the model's name on the hub, or its folder.
        adapter: whether it is an adapter, which PEFT loads.
        chats: whether its tokenizer has a chat template.

    Returns:
        Python source; an image classifier's reads `picture.png`.
    """
    model = recipe.get("model") or {}
    auto = KINDS[kind][1]
    reader = "AutoImageProcessor" if kind == "image" else "AutoTokenizer"
    imports = [auto, reader, *(["BitsAndBytesConfig"] if model.get("quantize") else [])]
    lines = [f"from transformers import {', '.join(sorted(imports))}", "", f"name = {place!r}"]
    if adapter:
        lines = ["from peft import PeftConfig, PeftModel", *lines, *_adapted(auto, model.get("quantize"))]
    else:
        lines.append(f"model = {auto}.from_pretrained(name)")
    if kind == "language":
        lines += [
            f"tokenizer = {reader}.from_pretrained(name)",
            *(_chat() if chats else _continuation(_prompt(recipe))),
        ]
    elif kind == "answers":
        lines += [
            f"tokenizer = {reader}.from_pretrained(name)",
            f"inputs = tokenizer({_prompt(recipe)!r}, return_tensors='pt')",
            "tokens = model.generate(**inputs, max_new_tokens=100)[0]",
            "print(tokenizer.decode(tokens, skip_special_tokens=True))",
        ]
    elif kind == "text":
        lines += [f"tokenizer = {reader}.from_pretrained(name)", "inputs = tokenizer('A text.', return_tensors='pt')"]
    else:
        grey = (model.get("config") or {}).get("num_channels") == 1
        lines = [*_image_imports(grey), *lines, f"processor = {reader}.from_pretrained(name)", *_image(grey)]
    if kind in ("image", "text"):
        lines += _meaning(recipe)
    return "\n".join(lines)


def _meaning(recipe: Mapping[str, Any]) -> list[str]:
    """What a classifier's outputs stand for."""
    blocks = [recipe, *(tasks if isinstance(tasks := recipe.get("tasks"), list) else ())]
    problems = {(block.get("data") or {}).get("problem_type") for block in blocks}
    lines = ["outputs = model(**inputs).logits[0]"]
    if "regression" in problems:
        return [*lines, "print(outputs.tolist())"]
    if "multi_label_classification" in problems:
        return [
            *lines,
            "print([model.config.id2label[row] for row, output in enumerate(outputs.tolist()) if output > 0])",
        ]
    return [*lines, "print(model.config.id2label[int(outputs.argmax())])"]


def _adapted(auto: str, quantize: str | None) -> list[str]:
    options = "config.base_model_name_or_path, revision=config.revision or 'main'"
    lines = ["config = PeftConfig.from_pretrained(name)"]
    if quantize == "4bit":  # as it was trained
        lines.append(
            "bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_use_double_quant=True)"
        )
    elif quantize is not None:
        lines.append("bits = BitsAndBytesConfig(load_in_8bit=True)")
    if quantize is not None:
        options += ", quantization_config=bits"
    return [*lines, f"base = {auto}.from_pretrained({options})", "model = PeftModel.from_pretrained(base, name)"]


def _chat() -> list[str]:
    return [
        "messages = [{'role': 'user', 'content': 'Hello!'}]",
        "inputs = tokenizer.apply_chat_template(",
        "    messages, add_generation_prompt=True, return_dict=True, return_tensors='pt'",
        ")",
        *_answer(),
    ]


def _continuation(prompt: str) -> list[str]:
    return [f"inputs = tokenizer({prompt!r}, return_tensors='pt')", *_answer()]


def _answer() -> list[str]:
    return [
        "tokens = model.generate(**inputs, max_new_tokens=100)[0]",
        "print(tokenizer.decode(tokens[inputs['input_ids'].shape[1] :], skip_special_tokens=True))",
    ]


def _prompt(recipe: Mapping[str, Any]) -> str:
    """The newest task's prompt, its columns as dots."""
    tasks = recipe.get("tasks")
    data = (tasks[-1].get("data") if isinstance(tasks, list) and tasks else None) or {}
    template = str(data.get("prompt") or "")
    try:
        parts = list(Formatter().parse(template))
    except ValueError:
        return "Once"
    if not any(field for _, field, _, _ in parts):
        return "Once"
    return "".join(text + ("…" if field is not None else "") for text, field, _, _ in parts)


def _image_imports(grey: bool) -> list[str]:
    return [*(["import numpy as np"] if grey else []), "from PIL import Image"]


def _image(grey: bool) -> list[str]:
    if grey:
        return [
            "image = np.asarray(Image.open('picture.png').convert('L'))[..., None]",
            "inputs = processor(image, input_data_format='channels_last', return_tensors='pt')",
        ]
    return ["inputs = processor(Image.open('picture.png').convert('RGB'), return_tensors='pt')"]
