"""What can be chosen for methods with an anchor θ_o."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from stockpot.methods.shared.first_task import FirstTaskConfig
from stockpot.models.spec import ModelSpec


class AnchorConfig(FirstTaskConfig):
    """Which weights are the anchor, and what happens in the first task."""

    path_keys: ClassVar[Mapping[str, Sequence[str]]] = {"anchor": ("previous", "pretrained")}

    anchor: str = Field("previous", description="θ_o: previous | pretrained | a path to a checkpoint")

    def problem_with_model(self, spec: ModelSpec) -> str | None:
        """Refuses another anchor than the previous model under LoRA."""
        if spec.lora is None or self.anchor == "previous":
            return None
        return (
            f"anchor: {self.anchor}: under LoRA the anchor is the base that the adapter sits on, the previous model; "
            "drop the key, or train without model.lora."
        )
