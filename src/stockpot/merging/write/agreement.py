"""Whether a merged folder can be opened: the names of its tensors are those that its configuration asks for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from stockpot.errors import StockpotError
from stockpot.merging.plan.layer_stacks import first_layer_extras, language_stacks, layer_counts, layer_of, rests_of
from stockpot.merging.plan.merge_plan import Plan
from stockpot.merging.plan.tensor_origins import Sliced, sliced_stacks
from stockpot.merging.write.layer_config import count_places
from stockpot.merging.write.output_config import taken_layers
from stockpot.weights.tensor_names import HEAD_ENDINGS

# Tables that some versions of a library save and others work out; none asks for them.
_WORKED_OUT = re.compile(r"(rotary_emb\.inv_freq|position_ids|attn\.(masked_)?bias|attention\.(masked_)?bias)$")


def check_agreement(names: Collection[str], config: Mapping[str, Any], plan: Plan, donor: str) -> list[str]:
    """Compares the output's tensors with what its configuration asks for; returns notes.

    The donor's configuration is one for the donor's tensors: so the output should have these, in as many layers as
    its own configuration says, each the like of the donor's layer that it was made of. Raises StockpotError where it
    has others; a donor that disagrees with its own configuration and is not sliced is a note.
    """
    tensors = plan.sources[plan.spec.paths.index(donor)].tensors
    cut = sliced_stacks(plan.spec, plan.sources) if plan.spec.slices else []
    expected = set(tensors) if not cut else set(_expected(tensors, cut, donor))
    missing = [name for name in expected - set(names) if not _WORKED_OUT.search(name)]
    unexpected = [name for name in set(names) - expected if not _WORKED_OUT.search(name)]
    unexpected = [name for name in unexpected if not name.endswith(HEAD_ENDINGS)]  # `untie` says that it is there
    for what, wrong in (("lack", missing), ("have", unexpected)):
        if wrong:
            shown = ", ".join(f"'{name}'" for name in sorted(wrong)[:3]) + (" …" if len(wrong) > 3 else "")
            raise StockpotError(
                f"the output would {what} {shown} ({len(wrong)}), and its configuration, that of {donor}, asks for "
                f"{'it' if what == 'lack' else 'no such tensors'}{': the sliced models differ in that' if cut else ''}."
            )
    return list(_counts(names, config, donor, bool(cut)))


def _expected(names: Collection[str], cut: Sequence[Sliced], donor: str) -> Iterator[str]:
    prefixes = {sliced.stack.prefix for sliced in cut}
    yield from (name for name in names if (layer := layer_of(name)) is None or layer[0] not in prefixes)
    for sliced in cut:
        prefix, ends = sliced.stack.prefix, rests_of(names, sliced.stack.prefix)
        extras = first_layer_extras(ends)
        yield from (f"{prefix}0{end}" for end in extras)
        for place, number in enumerate(taken_layers(sliced, donor)):
            if number not in ends:
                raise StockpotError(f"{donor} has no layer {prefix}{number}, which the output has: name another base.")
            yield from (f"{prefix}{place}{end}" for end in ends[number] - extras)


def _counts(names: Collection[str], config: Mapping[str, Any], donor: str, sliced: bool) -> Iterator[str]:
    """Whether the stacks of the language model have as many layers as the configuration says."""
    stacks, counts = language_stacks(names), layer_counts(names)
    for stack in stacks:
        places = count_places(dict(config), stack, stacks)
        count = counts[stack.prefix]
        if not places or any(block[key] == count for block, key in places) or "num_hidden_groups" in config:
            continue
        said = ", ".join(f"{key} is {block[key]}" for block, key in places)
        wrong = f"config.json of {donor} says that {said}, and there are {count} layers ({stack})"
        if sliced:
            raise StockpotError(f"{wrong}: the output could not be opened as it is.")
        yield f"{wrong}."
