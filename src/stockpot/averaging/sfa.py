"""Sequential Fine-tuning with Averaging in two lines of anybody's loop."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from stockpot.averaging.anchor import Anchor, AnchorSource, Keep, find_anchor, hold_anchor, move_anchor
from stockpot.averaging.average import average
from stockpot.averaging.copies import check_optimizer, forget, with_copies
from stockpot.averaging.distance import distance
from stockpot.averaging.lora import check_anchor, doubt, lora_factors, refuse_merged
from stockpot.averaging.lost import LostAverage
from stockpot.averaging.match import TensorPair, check_patterns, match
from stockpot.averaging.model_tensors import ModelTensor, is_deepspeed, model_names, model_tensors, signature
from stockpot.averaging.noise import Noise, drawn_seed
from stockpot.averaging.notes import note_not_counted, notes_on
from stockpot.averaging.optimizer_steps import OptimizerSteps, batches_of_epoch
from stockpot.averaging.saved_anchor import digest
from stockpot.averaging.schedule import Schedule
from stockpot.averaging.settings import check_beta
from stockpot.averaging.state import check_state, saved_source
from stockpot.errors import StockpotError
from stockpot.models.wrappers import refuse_fsdp1
from stockpot.weights.checkpoint import Checkpoint

Rounding = Literal["nearest", "stochastic"]
Buffers = Literal["average", "keep"]


class SFA:
    """Averages a model with its anchor while it trains: θ ← (1−β)·θ + β·θ_o (arXiv 2501.05559).

    ```python
    sfa = SFA(model, beta=0.25, p=0.1, total_steps=1000)  # the anchor is the model as it stands now
    ...
    optimizer.step(); sfa.step()
    ```

    β weighs the **anchor**: 0 is plain fine-tuning, 1 gives the anchor back. (WiSE-FT's α is the opposite, 1 − β:
    p = 1 is WiSE-FT at α = 1 − β, and Task Arithmetic on one task vector at λ = 1 − β.) θ_o stays what it was for the
    whole task, unlike the slow weights of Lookahead. Weights change in place, in fp32 or better.

    Arguments:
        beta: in [0, 1]; or name pattern (shell style, names without wrapper prefixes) → β, the first match counts.
        p: in (0, 1], averages after every p·`total_steps` optimizer steps and after the last (see `average_steps`).
        total_steps: T, optimizer steps of the task, not micro-batches.
        every: instead of p, averages every so many steps; call `finish()` after the last one.
        anchor: θ_o: "start" (the model now), a safetensors file or a folder with one (or an index), a state dict.
        keep: "device" (default of "start" and of state dicts), "cpu", or "disk" (default of a path: memory-mapped).
            A state dict that lies there already is used as it is, so do not write to it; the model's own is copied.
        new: name patterns of tensors that the anchor may lack (a new head: left alone) or hold with fewer rows (a
            grown head or vocabulary: the anchor's rows, assumed the first ones, are averaged).
        rounding: how averages of bf16 and fp16 weights return to their type, "nearest" (small pulls are lost) or
            "stochastic" (bf16, unbiased). None refuses such weights.
        buffers: "average" treats BatchNorm's running statistics as weights, "keep" leaves them as training made them.
            Neither are the statistics of the averaged weights: `torch.optim.swa_utils.update_bn` recomputes those.
        optimizer: the optimizer that trains the model, for exact counts (see `step`), and for copies of the weights
            that it keeps (docs/optimizers.md): they are averaged too.
        reset_optimizer: at each average, forget its state (Adam's moments) of what was averaged; by default it is kept.
        folder: where keep="disk" writes an anchor that is no file yet; a temporary folder by default.
        seed: of stochastic rounding, whose noise depends on seed, step, name and element alone, so that the processes
            of DDP round alike, whatever their generators. `generator` draws a seed, once; give every process the same.

    Averaged are trainable parameters, tied ones once, and floating buffers. Frozen parameters and integer buffers
    stay as they are. Anchor tensors that the model lacks are not used, which is logged. Under DDP every process
    averages alike; sharded (FSDP2) parameters are averaged shard by shard, without communication; FSDP1 is refused.

    LoRA of PEFT: each task begins a new adapter (B = 0) on the base that it starts from. That base is θ_o, θ − θ_o is
    ΔW = s·B·A, and the average is `B ← (1−β)·B` (A of embeddings, which starts at zero there): exact, and nothing is
    kept. What is trained beside the factors (`modules_to_save`, biases) has a small anchor as ever. The base must not
    change during the task; ΔW ≠ 0 is refused by the first `step()` unless `load_state_dict` came before it.

    Attributes: `steps` and `averages` done; `seconds` and `cpu_seconds` spent averaging; `anchor_bytes`, memory that
    the anchor takes beside the model (0 on disk); `anchor`, its tensors by name; `factors`, how many LoRA adapters
    are scaled; `notes`, what was decided; `doubt`, why `step()` refuses unless a saved state is loaded, or None.

    Raises StockpotError, in one line, for settings out of range and for tensors it could not average rightly: missing
    or misshapen, without data, quantised, DeepSpeed's, half precision without `rounding`; DoRA, AdaLoRA and their
    like, LoRA whose initialisation changes the base, and another anchor than "start" with LoRA.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        beta: float | Mapping[str, float],
        p: float | None = None,
        total_steps: int | None = None,
        every: int | None = None,
        anchor: AnchorSource = "start",
        keep: Keep | None = None,
        new: Sequence[str] = (),
        rounding: Rounding | None = None,
        buffers: Buffers = "average",
        optimizer: torch.optim.Optimizer | None = None,
        reset_optimizer: bool = False,
        folder: str | os.PathLike[str] | None = None,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise StockpotError(f"SFA needs a torch.nn.Module, not {type(model).__name__}.")
        refuse_fsdp1(model)
        if is_deepspeed(model):
            raise StockpotError("DeepSpeed keeps fp32 copies that would overwrite an average; train without it.")
        _one_of("keep", keep, (None, *get_args(Keep)))
        _one_of("rounding", rounding, (None, *get_args(Rounding)))
        _one_of("buffers", buffers, get_args(Buffers))
        if reset_optimizer and optimizer is None:
            raise StockpotError("reset_optimizer=True needs optimizer=…, whose state is to be reset.")
        if optimizer is not None:
            check_optimizer(optimizer, model)
        self.schedule = Schedule(p, total_steps, every)
        self.beta = check_beta(beta)
        self.steps = 0
        self.averages = 0
        self.last_average = 0
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.notes: list[str] = []
        self._model = model
        self._new = (new,) if isinstance(new, str) else tuple(new)
        self._rounding = rounding
        self._buffers = buffers
        self._optimizer = optimizer
        self._reset_optimizer = reset_optimizer
        self._folder = Path(folder) if folder is not None else None
        self.seed = seed if generator is None else drawn_seed(generator)
        self._moved = True  # by an optimizer step, since the last average
        self._guard = LostAverage()
        self._optimizer_steps = OptimizerSteps(model, self._guard)
        if isinstance(anchor, Checkpoint):
            anchor = anchor.path
        self._own_path = not isinstance(anchor, Mapping) and anchor != "start"
        self._keep: Keep = keep or ("disk" if self._own_path else "device")
        self._anchor: Anchor
        self._pairs: list[TensorPair] = []
        self._signature: list[object] = []
        self._sha256: str | None = None  # of the anchor
        self._unclaimed: Path | None = None  # a file written into `folder` that no saved state refers to yet
        names = model_names(model)
        check_patterns("new", self._new, names)
        if isinstance(self.beta, dict):
            check_patterns("beta", list(self.beta), names)
        self.factors = 0
        scaled = {pair.name: pair.factor for pair in self._take(anchor) if pair.factor is not None}
        if scaled:
            check_anchor(anchor, next(iter(scaled)))
        self.doubt = doubt(model, scaled)

    def check_start(self) -> None:
        """Raises StockpotError where LoRA's ΔW was not 0 when this SFA was made, and no saved state explains it."""
        if self.doubt is not None:
            raise StockpotError(self.doubt)

    def step(self) -> bool:
        """Call after each `optimizer.step()`; averages when it is time to. Returns whether it averaged.

        Counted are optimizer steps. Not counted is a call in which Accelerate's state says that the batch only
        accumulated gradients, nor with `optimizer=` one before which that optimizer made no step (a gradient scaler
        skipped it, fp16; a batch that accumulates): then T may not be reached, and `finish()` after the last one makes
        the average that is due. Without `optimizer=` a skipped step counts, since it cannot be known, and under
        `fused=True`, which skips on the device. Under CUDA graphs no step can be seen: leave `optimizer=` out.

        Raises StockpotError beyond `total_steps`, as `check_start` does, and when the optimizer step undid the average
        before it.
        """
        self.check_start()
        if not self._optimizer_steps.follows_step(self._optimizer):
            note_not_counted(self.schedule.total_steps, batches_of_epoch())
            return False
        return self.reach(self.steps + 1)

    def reach(self, step: int, *, skipped: bool = False) -> bool:
        """For trainers that count themselves: step `step` is done. Averages, returns and raises as `step()` does.

        Where the trainer counts a step that a gradient scaler `skipped`, an average that is due after it is made,
        unless it would be the second of the same weights.
        """
        self.check_start()
        total = self.schedule.total_steps
        if total is not None and step > total:
            raise StockpotError(
                f"step {step} is beyond total_steps={total}, whose last average is done; "
                "count optimizer steps, not batches, and make a new SFA for the next task."
            )
        if not skipped:
            self._guard.check()
            self._moved = True
        self.steps = step
        due = self.schedule.due(step) and self._average_moved()
        if self.schedule.due(step + 1):
            self._guard.look()
        return due

    def finish(self) -> bool:
        """Averages at the end of the task, unless the last step just did. Returns whether it averaged."""
        return self.steps > self.last_average and self._average_moved()

    def average(self) -> None:
        """Averages now, whatever the schedule says. Raises StockpotError while a LoRA adapter is merged."""
        self.check_start()
        wall, cpu = time.perf_counter(), time.process_time()
        pairs = self._current_pairs()
        refuse_merged({pair.name: pair.factor for pair in pairs if pair.factor is not None})
        optimizers = [self._optimizer, *self._optimizer_steps.seen]
        noise = Noise(self.seed, self.steps, self.averages) if self._rounding == "stochastic" else None
        self._guard.begin(pairs)
        average(with_copies(pairs, optimizers), noise)
        self._guard.end()
        self._moved = False
        if self._reset_optimizer:
            forget(self._optimizer, pairs)
        for device in {pair.tensor.device for pair in pairs if pair.tensor.is_cuda}:
            torch.cuda.synchronize(device)  # else the seconds below would be those of the launch
        self.averages += 1
        self.last_average = self.steps
        self.seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu

    def distance(self) -> float:
        """‖θ − θ_o‖₂ over the averaged parameters, buffers left out, in the unit of the weights.

        Where they are sharded it is that of the whole weights: every process has to call it. Of LoRA ‖s·B·A‖; raises
        StockpotError where its factors are sharded.
        """
        return distance(self._current_pairs())

    @property
    def anchor(self) -> Mapping[str, Tensor]:
        """θ_o by name, without wrapper prefixes. Not to be written to."""
        return self._anchor.tensors

    @property
    def anchor_bytes(self) -> int:
        """Memory of this process that the anchor takes beside the model, in bytes; 0 when it is memory-mapped."""
        return self._anchor.bytes

    def anchor_sha256(self) -> str:
        """SHA-256 of θ_o as averages see it: the same for the same anchor, wherever and however it is stored."""
        if self._sha256 is None:
            self._sha256 = digest(self._current_pairs())
        return self._sha256

    def progress(self) -> dict[str, Any]:
        """Where the task stands, without the anchor: what `state_dict` holds beside it."""
        counts = {"steps": self.steps, "averages": self.averages, "last_average": self.last_average}
        return {**counts, **self._settings(), "seed": self.seed}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, readable with `torch.load(…, weights_only=True)`.

        `steps`, `averages`, `last_average`, `beta`, `p`, `total_steps`, `every`, the `seed` of the noise, and `anchor`:
        the path of a file that stays, with its `anchor_sha256`, else its tensors (not copied).
        """
        stays = self._anchor.path is not None and self._anchor.scratch is None
        self._unclaimed = None
        anchor = str(self._anchor.path) if stays else dict(self._anchor.tensors)
        return {**self.progress(), "anchor": anchor, "anchor_sha256": self.anchor_sha256() if stays else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken: the run equals an unbroken one bit for bit.

        The anchor is the state's, unless this SFA was given a path itself: that is where it lies now. Raises
        StockpotError when beta, p or every differ from the state's, with p total_steps too, or its anchor cannot be had
        or is another than it was.
        """
        check_state(state, self._settings())
        if not self._own_path:
            unclaimed = self._unclaimed
            self._take(saved_source(state, self._folder))
            if unclaimed is not None:
                unclaimed.unlink(missing_ok=True)
        if state.get("anchor_sha256") not in (None, self.anchor_sha256()):
            raise StockpotError(f"{self._anchor.label} is not, for what is trained here, that of the saved state.")
        self.doubt = None
        self.steps, self.averages, self.last_average = state["steps"], state["averages"], state["last_average"]
        self.seed = state.get("seed", self.seed)
        self._moved = self.steps > self.last_average

    def _average_moved(self) -> bool:
        moved = self._moved
        if moved:
            self.average()
        self.last_average = self.steps
        return moved

    def _settings(self) -> dict[str, Any]:
        schedule = self.schedule
        return {"beta": self.beta, "p": schedule.p, "total_steps": schedule.total_steps, "every": schedule.every}

    def _take(self, source: AnchorSource) -> list[TensorPair]:
        """Makes `source` the anchor, once every tensor has been checked against it."""
        live = self._live()
        anchor = find_anchor(source, [one for one in live if one.factor is None], self._model)
        pairs = match(live, anchor.tensors, anchor.label, self.beta, self._new)
        self.notes = notes_on(self._model, anchor, self._buffers)
        anchored = [pair for pair in pairs if pair.factor is None]
        self.factors = len(pairs) - len(anchored)
        self._anchor = hold_anchor(anchor, anchored, self._model, self._keep, self._folder)
        self._unclaimed = self._anchor.path if anchor.path is None and self._anchor.scratch is None else None
        self._signature, self._sha256 = [], None
        self._guard.choose(pairs)
        self._guard.look()
        return pairs

    def _live(self) -> list[ModelTensor]:
        halves, lora = self._rounding is not None, lora_factors(self._model)
        live = model_tensors(self._model, buffers=self._buffers == "average", halves=halves, lora=lora)
        if self._rounding == "stochastic" and any(one.tensor.dtype == torch.float16 for one in live):
            raise StockpotError("rounding='stochastic' is for bf16 weights; say rounding='nearest' for fp16 ones.")
        return live

    def _current_pairs(self) -> list[TensorPair]:
        now = signature(self._model)
        if now != self._signature:
            live = self._live()
            if self._keep == "device":
                move_anchor(self._anchor, live)
            self._pairs = match(live, self._anchor.tensors, self._anchor.label, self.beta, self._new)
            self._signature = now
        return self._pairs


def _one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        options = ", ".join(repr(one) for one in allowed)
        raise StockpotError(f"{name} must be one of {options}, not {value!r}.")
