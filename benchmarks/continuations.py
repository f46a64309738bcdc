"""How the language models of several runs continue the same prompts after each task: forgetting, readable.

    python benchmarks/continuations.py runs/plain runs/sfa --prompt "The Secretary shall" --prompt "public static "

Runs need `keep: all`. Generation is greedy, so the same model always writes the same. The output is Markdown.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from stockpot.evaluation.language.generation import continuations
from stockpot.results import read_results


def stages(run: Path) -> list[Path]:
    """The model folders of a run, starting with the start model."""
    return sorted(folder / "model" for folder in (run / "tasks").iterdir() if (folder / "model").is_dir())


def generated(folder: Path, prompts: list[str], tokens: int) -> list[str]:
    """How the model in a folder continues the prompts."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    results = continuations(model, tokenizer, prompts, batch_size=len(prompts), max_new_tokens=tokens)
    return [texts[0] for texts in results]


def main() -> None:
    """Prints a section for each prompt."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--prompt", action="append", required=True, help=r"may be repeated; \n is a new line")
    parser.add_argument("--tokens", type=int, default=40)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    prompts = [prompt.replace("\\n", "\n") for prompt in arguments.prompt]
    texts_of: dict[str, list[tuple[str, str]]] = {prompt: [] for prompt in prompts}
    for number, run in enumerate(arguments.runs):
        label = read_results(run / "results.json").label
        for folder in stages(run)[1 if number else 0 :]:  # all start from the same model
            name = folder.parent.name.split("-", 1)[1]
            place = "before" if folder.parent.name.startswith("00") else f"{label}, after {name}"
            for prompt, text in zip(prompts, generated(folder, prompts, arguments.tokens), strict=True):
                texts_of[prompt].append((place, text))
    for prompt, texts in texts_of.items():
        print(f"**{_line(prompt)} …**\n")
        print("\n".join(f"- {place}: `{_line(text)}`" for place, text in texts) + "\n")


def _line(text: str) -> str:
    return " ".join(text.replace("`", "'").replace("\n", " ⏎ ").split())


if __name__ == "__main__":
    main()
