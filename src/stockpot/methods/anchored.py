"""What methods with an anchor θ_o let one choose."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stockpot.methods.base import BaseConfig
from stockpot.models.spec import ModelSpec


class AnchorConfig(BaseConfig):
    """Which weights are the anchor, and what happens in the first task."""

    acts: ClassVar[str] = "averaged"

    anchor: str = Field("previous", description="θ_o: previous | pretrained | a path to a checkpoint")
    first_task: Literal["skip", "average"] = Field("skip", description="average protects the weights that were loaded")

    def problem_with_model(self, spec: ModelSpec) -> str | None:
        """Another anchor than the previous model, under LoRA."""
        if spec.lora is None or self.anchor == "previous":
            return None
        return (
            f"anchor: {self.anchor}: under LoRA the anchor is the base that the adapter sits on, the previous model; "
            "drop the key, or train without model.lora."
        )

    def problem_with(self, tasks: int) -> str | None:
        """A stream of one task, which is skipped, would never be touched by the method."""
        if tasks == 1 and self.first_task == "skip":
            return (
                f"nothing would ever be {self.acts}: the stream has one task, and first_task is skip. "
                "Set first_task: average to protect the start model, or name more tasks."
            )
        return None
