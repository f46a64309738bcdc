"""How language models of several runs go on with the same prompts, after each task: forgetting, to be read.

    python benchmarks/continuations.py runs/plain runs/sfa --prompt "The Secretary shall" --prompt "public static "

Runs need `keep: all`. Writing is greedy, so that the same model always writes the same. Printed as Markdown.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from stockpot.evaluation.language.generation import continuations
from stockpot.results import read_results


def stages(run: Path) -> list[Path]:
    """The model folders of a run, from the start on."""
    return sorted(folder / "model" for folder in (run / "tasks").iterdir() if (folder / "model").is_dir())


def written(folder: Path, prompts: list[str], tokens: int) -> list[str]:
    """What the model of a folder goes on with."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = continuations(model, tokenizer, prompts, batch_size=len(prompts), max_new_tokens=tokens)
    return [texts[0] for texts in found]


def main() -> None:
    """Prints a section for each prompt."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--prompt", action="append", required=True, help=r"may be given again; \n is a new line")
    parser.add_argument("--tokens", type=int, default=40)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    prompts = [prompt.replace("\\n", "\n") for prompt in asked.prompt]
    said: dict[str, list[tuple[str, str]]] = {prompt: [] for prompt in prompts}
    for number, run in enumerate(asked.runs):
        label = read_results(run / "results.json").label
        for folder in stages(run)[1 if number else 0 :]:  # all start from the same model
            name = folder.parent.name.split("-", 1)[1]
            place = "before" if folder.parent.name.startswith("00") else f"{label}, after {name}"
            for prompt, text in zip(prompts, written(folder, prompts, asked.tokens), strict=True):
                said[prompt].append((place, text))
    for prompt, texts in said.items():
        print(f"**{_line(prompt)} …**\n")
        print("\n".join(f"- {place}: `{_line(text)}`" for place, text in texts) + "\n")


def _line(text: str) -> str:
    return " ".join(text.replace("`", "'").replace("\n", " ⏎ ").split())


if __name__ == "__main__":
    main()
