"""SFA in Axolotl: a plugin. Axolotl imports this module itself; nothing else of Stockpot does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, Self, get_type_hints

from pydantic import BaseModel, Field, create_model, model_validator

from stockpot.averaging.settings import BetaValue, SFASettings, check_beta
from stockpot.errors import StockpotError, did_you_mean
from stockpot.strict import StrictModel

if TYPE_CHECKING:
    from stockpot.averaging.callback import SFACallback

try:
    from axolotl.integrations.base import BasePlugin
except ImportError as error:
    raise StockpotError("SFAPlugin is for Axolotl, which is not installed: pip install axolotl.") from error


class _SFABlock(StrictModel):
    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        for key in values if isinstance(values, Mapping) else ():
            if key not in cls.model_fields:
                raise StockpotError(f"sfa has no key '{key}'.{did_you_mean(str(key), cls.model_fields)}")
        if isinstance(values, Mapping) and "beta" in values:
            check_beta(values["beta"])
        return values

    @model_validator(mode="after")
    def _possible(self) -> Self:
        SFASettings(**dict(self))
        return self

    def callback(self) -> SFACallback:
        """The callback with these settings. Raises StockpotError as it does."""
        from stockpot.averaging.callback import SFACallback

        return SFACallback(**dict(self))


def _yaml_fields() -> dict[str, Any]:
    """The fields of `SFASettings` as pydantic has them, with the types that a YAML file can hold."""
    plain = {"beta": BetaValue | dict[str, BetaValue], "anchor": str, "new": list[str], "importance": str}
    types = get_type_hints(SFASettings) | plain
    described = get_type_hints(SFASettings, include_extras=True)
    result = {}
    for each in fields(SFASettings):
        default: Any = ... if each.default is MISSING else [] if each.name == "new" else each.default
        result[each.name] = types[each.name], Field(default, description=described[each.name].__metadata__[0])
    return result


SFABlock = create_model(
    "SFABlock", __base__=_SFABlock, __doc__="The block `sfa:` of an Axolotl file.", **_yaml_fields()
)


class SFAArgs(BaseModel):
    """What the plugin adds to Axolotl's configuration. Its own `model_config` would change all of Axolotl's."""

    sfa: SFABlock = Field(description="Sequential fine-tuning with averaging.")


class SFAPlugin(BasePlugin):
    """Averages the model with its anchor while Axolotl trains it (`SFACallback`).

    ```yaml
    plugins: [stockpot.averaging.axolotl.SFAPlugin]
    sfa: {beta: 0.25, p: 0.1}
    ```

    The keys of `sfa` are the arguments of `SFACallback`. Axolotl loads bf16 weights under `bf16: true`: say
    `rounding: stochastic` then.

    Raises:
        StockpotError: as SFACallback does, and with ReLoRA, which moves the base that SFA relies on.
    """

    def get_input_args(self) -> str:
        """Where Axolotl finds the model of the added keys."""
        return f"{SFAArgs.__module__}.{SFAArgs.__qualname__}"

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        """The callback, for the trainer that Axolotl has built."""
        if cfg.get("relora"):
            raise StockpotError("SFA and relora cannot be combined: relora folds adapters while a task still trains.")
        if not cfg.get("sfa"):
            raise StockpotError("SFAPlugin needs its settings in the file, such as  sfa: {beta: 0.25, p: 0.1}")
        return [SFABlock.model_validate(dict(cfg["sfa"])).callback()]
