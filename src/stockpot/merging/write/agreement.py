"""Whether a merged folder can be loaded: its tensors must be those that its configuration asks for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from stockpot.errors import StockpotError
from stockpot.merging.plan.layer_stacks import first_layer_extras, language_stacks, layer_counts, layer_of, rests_of
from stockpot.merging.plan.merge_plan import Plan
from stockpot.merging.plan.tensor_origins import Sliced, sliced_stacks
from stockpot.merging.write.layer_config import layer_count_keys
from stockpot.merging.write.output_config import taken_layers
from stockpot.weights.tensor_names import HEAD_ENDINGS

# Tables that some versions of a library save and others compute; none requires them.
_WORKED_OUT = re.compile(r"(rotary_emb\.inv_freq|position_ids|attn\.(masked_)?bias|attention\.(masked_)?bias)$")


def check_agreement(names: Collection[str], config: Mapping[str, Any], plan: Plan, donor: str) -> list[str]:
    """Compares the output's tensors with what its configuration asks for; returns notes.

    The configuration is the donor's, so the output must have the donor's tensors, in the configured number of layers,
    each with the tensors of the donor's layer that it was made from. Raises StockpotError if it has others. If a donor
    that is not sliced disagrees with its own configuration, that is only a note.
    """
    tensors = plan.sources[plan.spec.paths.index(donor)].tensors
    sliced_parts = sliced_stacks(plan.spec, plan.sources) if plan.spec.slices else []
    expected = set(tensors) if not sliced_parts else set(_expected(tensors, sliced_parts, donor))
    missing = [name for name in expected - set(names) if not _WORKED_OUT.search(name)]
    unexpected = [name for name in set(names) - expected if not _WORKED_OUT.search(name)]
    unexpected = [name for name in unexpected if not name.endswith(HEAD_ENDINGS)]  # `untie` declares the head
    for verb, wrong in (("lack", missing), ("have", unexpected)):
        if wrong:
            shown = ", ".join(f"'{name}'" for name in sorted(wrong)[:3]) + (" …" if len(wrong) > 3 else "")
            expectation = "requires it" if verb == "lack" else "does not expect it"
            reason = ": the sliced models differ in that" if sliced_parts else ""
            raise StockpotError(
                f"the output would {verb} {shown} ({len(wrong)}), and its configuration, that of {donor}, "
                f"{expectation}{reason}."
            )
    return list(_check_counts(names, config, donor, bool(sliced_parts)))


def _expected(names: Collection[str], sliced_parts: Sequence[Sliced], donor: str) -> Iterator[str]:
    prefixes = {sliced.stack.prefix for sliced in sliced_parts}
    yield from (name for name in names if (layer := layer_of(name)) is None or layer[0] not in prefixes)
    for sliced in sliced_parts:
        prefix, ends = sliced.stack.prefix, rests_of(names, sliced.stack.prefix)
        extras = first_layer_extras(ends)
        yield from (f"{prefix}0{end}" for end in extras)
        for position, number in enumerate(taken_layers(sliced, donor)):
            if number not in ends:
                raise StockpotError(f"{donor} has no layer {prefix}{number}, but the output does: name another base.")
            yield from (f"{prefix}{position}{end}" for end in ends[number] - extras)


def _check_counts(names: Collection[str], config: Mapping[str, Any], donor: str, sliced: bool) -> Iterator[str]:
    """Whether the language model's stacks have the number of layers that the configuration says."""
    stacks, counts = language_stacks(names), layer_counts(names)
    for stack in stacks:
        keys = layer_count_keys(dict(config), stack, stacks)
        count = counts[stack.prefix]
        if not keys or any(block[key] == count for block, key in keys) or "num_hidden_groups" in config:
            continue
        shown = ", ".join(f"{key} is {block[key]}" for block, key in keys)
        problem = f"config.json of {donor} says that {shown}, but there are {count} layers ({stack})"
        if sliced:
            raise StockpotError(f"{problem}, so the output could not be loaded.")
        yield f"{problem}."
