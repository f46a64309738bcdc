"""SFA in Axolotl: a plugin. Axolotl imports this module itself; nothing else of Stockpot does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, Field, model_validator

from stockpot.averaging.anchor import Keep
from stockpot.averaging.sfa import Buffers, Rounding
from stockpot.errors import StockpotError, did_you_mean
from stockpot.strict import StrictModel

if TYPE_CHECKING:
    from stockpot.averaging.callback import SFACallback

try:
    from axolotl.integrations.base import BasePlugin
except ImportError as error:
    raise StockpotError("SFAPlugin is for Axolotl, which is not installed: pip install axolotl.") from error


class SFASettings(StrictModel):
    """The block `sfa:` of an Axolotl file: the arguments of `SFACallback`."""

    beta: float | dict[str, float] = Field(description="Weight of the anchor, in [0, 1]; or name pattern → weight.")
    p: float | None = Field(None, description="Average after every p·T optimizer steps and after the last, in (0, 1].")
    every: int | None = Field(None, description="Instead of p: average after so many optimizer steps.")
    anchor: str = Field("start", description="'start' (the model as training begins) or a path of safetensors.")
    keep: Keep | None = Field(None, description="Where the anchor lives: device, cpu or disk.")
    new: list[str] = Field(
        [], description="Name patterns of tensors that the anchor may lack, or hold with fewer rows."
    )
    rounding: Rounding | None = Field(None, description="How averages of bf16 weights are rounded; none refuses them.")
    buffers: Buffers = Field("average", description="Whether floating buffers are averaged or kept.")
    reset_optimizer: bool = Field(False, description="Forget the optimizer's state of what was averaged.")
    seed: int = Field(0, description="Of the noise of rounding: stochastic.")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        for key in values if isinstance(values, Mapping) else ():
            if key not in cls.model_fields:
                raise StockpotError(f"sfa has no key '{key}'.{did_you_mean(str(key), cls.model_fields)}")
        return values

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.callback()
        return self

    def callback(self) -> SFACallback:
        """The callback of these settings. Raises StockpotError where it does."""
        from stockpot.averaging.callback import SFACallback

        return SFACallback(**dict(self))


class SFAArgs(BaseModel):
    """What the plugin adds to Axolotl's configuration. Its own `model_config` would change all of Axolotl's."""

    sfa: SFASettings = Field(description="Sequential fine-tuning with averaging.")


class SFAPlugin(BasePlugin):
    """Averages the model with its anchor while Axolotl trains it (`SFACallback`).

    ```yaml
    plugins: [stockpot.averaging.axolotl.SFAPlugin]
    sfa: {beta: 0.25, p: 0.1}
    ```

    Axolotl loads bf16 weights under `bf16: true`: say `rounding: stochastic` then. Raises StockpotError as SFACallback
    does, and with ReLoRA, which moves the base that SFA counts on.
    """

    def get_input_args(self) -> str:
        """Where Axolotl finds the model of the added keys."""
        return f"{SFAArgs.__module__}.{SFAArgs.__qualname__}"

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        """The callback, for the trainer that Axolotl has built."""
        if cfg.get("relora"):
            raise StockpotError("SFA and relora cannot go together: relora folds adapters while a task still trains.")
        if not cfg.get("sfa"):
            raise StockpotError("SFAPlugin needs its settings in the file, such as  sfa: {beta: 0.25, p: 0.1}")
        return [SFASettings.model_validate(dict(cfg["sfa"])).callback()]
