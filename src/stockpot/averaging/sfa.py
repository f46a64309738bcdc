"""Sequential Fine-tuning with Averaging: two lines in any training loop."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from stockpot.averaging.anchored_model import AnchoredModel, factors_of
from stockpot.averaging.auto_beta import AutoBeta
from stockpot.averaging.average import average
from stockpot.averaging.beta_profile import BetaProfile, beta_profile
from stockpot.averaging.distance import distance
from stockpot.averaging.lora_factors import check_anchor, check_rows, doubt, refuse_merged
from stockpot.averaging.lost_average import LostAverage
from stockpot.averaging.match import TensorPair
from stockpot.averaging.model_tensors import is_deepspeed
from stockpot.averaging.noise import Noise, drawn_seed
from stockpot.averaging.notes import note_not_counted
from stockpot.averaging.optimizer_copies import check_optimizer, forget, with_copies
from stockpot.averaging.optimizer_steps import OptimizerSteps, accumulating, batches_of_epoch
from stockpot.averaging.past_importance import PastImportance
from stockpot.averaging.refusals import deepspeed
from stockpot.averaging.saved_state import check_state, saved_source
from stockpot.averaging.settings import SFAOptions, SFASettings, lists_settings
from stockpot.errors import StockpotError
from stockpot.models.wrappers import refuse_fsdp1
from stockpot.weights.checkpoint import Checkpoint


class SFA:
    """Averages a model with its anchor while it trains: θ ← (1−β)·θ + β·θ_o (arXiv 2501.05559).

    ```python
    sfa = SFA(model, beta=0.25, p=0.1, total_steps=1000)  # the anchor is the model as it is now
    ...
    optimizer.step(); sfa.step()
    ```

    β weighs the **anchor**: 0 is plain fine-tuning, 1 restores the anchor. (WiSE-FT's α is the opposite: p = 1 is
    WiSE-FT at α = 1 − β, and Task Arithmetic with one task vector at λ = 1 − β.) Unlike the slow weights of Lookahead,
    θ_o stays the same for the whole task. Weights change in place, computed in fp32 or better.

    Averaged are trainable parameters, tied ones once, and floating-point buffers. Frozen parameters and integer buffers
    stay as they are. Tensors of the anchor that the model lacks are not used, which is logged. Under DDP every process
    averages alike; sharded (FSDP2) parameters are averaged shard by shard, without communication; FSDP1 is refused.

    β need not be chosen: with `beta="auto"` each weight has its own, from the mean squared gradients of this task and
    of those before, `β_i = 1 − (v_i+e)/(v_i+e+λ(Ω_i+t·e))` (see `AutoBeta`). `step()` sees the gradients, so call it
    before `zero_grad()`, or `observe()` after the backward pass. After the task, `save_importance()` keeps Ω for the
    next one: one tensor of the model's size, no data.

    ```python
    sfa = SFA(model, beta="auto", total_steps=1000, importance="task1/")  # of the second task
    ...
    sfa.save_importance("task2/")
    ```

    LoRA (PEFT): each task starts a new adapter (B = 0) on the base that it starts from. That base is θ_o, θ − θ_o is
    ΔW = s·B·A, and the average is `B ← (1−β)·B` (A of embeddings, which starts at zero there): exact, and no copy is
    kept. What is trained beside the factors (`modules_to_save`, biases) has a small anchor as usual. The base must not
    change during the task; ΔW ≠ 0 is refused by the first `step()` unless `load_state_dict` was called before.

    Args:
        model: the model that is trained, a `torch.nn.Module`.
        beta: weight of the anchor, in [0, 1], or "auto"; or name pattern → weight, where the first match counts.
            Patterns are shell-style and match names without the prefixes of wrappers.
        p: in (0, 1]. Averages after every p·`total_steps` optimizer steps and after the last (see `average_steps`);
            0.5 by default with beta="auto".
        total_steps: T, the optimizer steps of the task, not micro-batches. `p` needs it.
        every: instead of p, averages after every so many optimizer steps; call `finish()` after the last one.
        anchor: θ_o: "start" (the model now), a safetensors file, a folder with one or with an index, or a state dict.
        keep: where θ_o is stored: "device" (the default for "start" and state dicts), "cpu", or "disk" (the default for
            a path: memory-mapped). A state dict that is already there is used as it is, so do not write to it; the
            model's own is copied.
        new: name patterns of tensors that the anchor may lack (a new head: left alone) or hold with fewer rows (a
            grown head or vocabulary: the anchor's rows, assumed to be the first ones, are averaged).
        rounding: how averages of bf16 and fp16 weights return to their dtype: "nearest" (small pulls are lost) or
            "stochastic" (bf16, unbiased). None refuses such weights.
        buffers: "average" treats BatchNorm's running statistics as weights, "keep" leaves them as training made them.
            Neither gives the statistics of the averaged weights: `torch.optim.swa_utils.update_bn` recomputes those.
        optimizer: the optimizer that trains the model, for exact counts (see `step`), and for copies of the weights
            that it keeps (docs/optimizers.md): they are averaged too.
        reset_optimizer: at each average, discard the optimizer's state (Adam's moments) of what was averaged.
        folder: where keep="disk" writes an anchor that is not a file yet; a temporary folder by default.
        seed: of stochastic rounding, whose noise depends on seed, step, name and element alone, so that the processes
            of DDP round alike, whatever the state of their generators.
        strength: λ of beta="auto": more keeps more of the past, less learns more of the new; 0 is plain fine-tuning.
        importance: Ω of beta="auto": a folder of `save_importance`; "uniform" for a pretrained model whose past is not
            known, which counts as one task in which all weights mattered alike; "none" for a first task from random
            weights, which is only observed.
        squares: "observed" sums the squares of the gradients of every step, in one more tensor of the model's size;
            "adam" reads the second moments of the `optimizer` instead, at no cost. They remember about 1/(1−β₂) steps,
            1000 by default: not for longer tasks.
        generator: draws the seed instead, once; its state has to be equal in all processes.

    Attributes:
        steps: optimizer steps done.
        averages: averages done; `last_average` is the step of the latest.
        seconds: wall-clock seconds spent averaging; `cpu_seconds` those of the processor.
        anchor: θ_o by name; `anchor_bytes` is the memory that it takes beside the model, 0 when memory-mapped.
        factors: how many LoRA adapters are scaled.
        doubt: why `step()` refuses unless a saved state is loaded first, or None.

    Raises:
        StockpotError: for settings out of range, and for tensors that cannot be averaged correctly: missing or of
            another shape, without data, quantised, DeepSpeed's, in half precision without `rounding`; for DoRA, AdaLoRA
            and the like, LoRA whose initialisation changes the base, and an anchor other than "start" with LoRA.
    """

    @lists_settings
    def __init__(
        self,
        model: nn.Module,
        *,
        total_steps: int | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        folder: str | os.PathLike[str] | None = None,
        generator: torch.Generator | None = None,
        **settings: Unpack[SFAOptions],
    ) -> None:
        if not isinstance(model, nn.Module):
            raise StockpotError(f"SFA needs a torch.nn.Module, not {type(model).__name__}.")
        refuse_fsdp1(model)
        if is_deepspeed(model):
            raise deepspeed()
        chosen = SFASettings(**settings)
        if isinstance(chosen.anchor, Checkpoint):
            chosen = replace(chosen, anchor=chosen.anchor.path)
        if chosen.reset_optimizer and optimizer is None:
            raise StockpotError("reset_optimizer=True needs optimizer=…, whose state is to be reset.")
        if optimizer is not None:
            check_optimizer(optimizer, model)
        self.settings = chosen
        self.schedule = chosen.schedule(total_steps)
        self.beta = chosen.beta
        self.seed = chosen.seed if generator is None else drawn_seed(generator)
        self.steps = 0
        self.averages = 0
        self.last_average = 0
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self._optimizer = optimizer
        self._folder = Path(folder) if folder is not None else None
        self._moved = True  # by an optimizer step, since the last average
        self._guard = LostAverage()
        self._optimizer_steps = OptimizerSteps(model, self._guard)
        self._auto = AutoBeta(chosen, optimizer) if chosen.automatic else None
        self._anchored = AnchoredModel(model, chosen, self._folder, self._auto.beta if self._auto else 0.0)
        factors = factors_of(self._watch(self._anchored.take(chosen.anchor)))
        if factors:
            check_anchor(chosen.anchor, next(iter(factors)))
        if self._auto is not None:
            check_rows(factors)
        self.factors = len(factors)
        self.doubt = doubt(model, factors)

    def check_start(self) -> None:
        """Raises StockpotError if LoRA's ΔW was not 0 when this SFA was made, and no saved state explains it."""
        if self.doubt is not None:
            raise StockpotError(self.doubt)

    def observe(self) -> None:
        """For beta="auto" where gradients are gone when `step` is called: call it once for each optimizer step, between
        the backward pass (after `scaler.unscale_`) and `zero_grad`. Without beta="auto" it does nothing.

        Raises:
            StockpotError: if there are no gradients, and if it is called twice before one `step`.
        """
        if self._auto is not None and not accumulating():
            self._auto.observe(self._anchored.weights())

    def step(self) -> bool:
        """Call after each `optimizer.step()`; averages when an average is due.

        Optimizer steps are counted. A call does not count when Accelerate's state says that the batch only accumulated
        gradients, nor, with `optimizer=`, when that optimizer made no step before it (skipped by a gradient scaler,
        fp16; a batch that accumulates). Then T may not be reached, and `finish()` after the last step makes the average
        that is due. Without `optimizer=` a skipped step counts, since it cannot be known, and so it does under
        `fused=True`, which skips on the device. Under CUDA graphs no step can be seen: leave `optimizer=` out.

        Returns:
            Whether it averaged.

        Raises:
            StockpotError: beyond `total_steps`, as `check_start` does, and when the optimizer step undid the average
                before it.
        """
        self.check_start()
        if not self._optimizer_steps.follows_step(self._optimizer):
            note_not_counted(self.schedule.total_steps, batches_of_epoch())
            return False
        return self.reach(self.steps + 1)

    def reach(self, step: int, *, skipped: bool = False, gradients: bool = True) -> bool:
        """For trainers that count steps themselves: step `step` is done.

        Args:
            step: the optimizer steps done, from 1.
            skipped: whether the trainer counts this step although a gradient scaler skipped it. An average that is due
                after it is made, unless it would be the second of the same weights.
            gradients: whether the step's gradients are still there for beta="auto"; without them it does not see them.

        Returns:
            Whether it averaged.

        Raises:
            StockpotError: as `step` does.
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
            if self._auto is not None and gradients:
                self._auto.stepped(self._anchored.weights())
        self.steps = step
        averaged = self.schedule.due(step) and self._average_moved()
        if self.schedule.due(step + 1):
            self._guard.remember()
        return averaged

    def finish(self) -> bool:
        """Averages at the end of the task, unless the last step just did. Returns whether it averaged."""
        return self.steps > self.last_average and self._average_moved()

    def average(self) -> None:
        """Averages now, whatever the schedule says. Raises StockpotError while a LoRA adapter is merged."""
        self.check_start()
        wall, cpu = time.perf_counter(), time.process_time()
        if self._anchored.idle:
            return
        pairs = self._anchored.pairs()
        refuse_merged(factors_of(pairs))
        if self._auto is not None:
            pairs = self._auto.weighed(pairs, self._anchored.weights())
        optimizers = [self._optimizer, *self._optimizer_steps.optimizers]
        noise = Noise(self.seed, self.steps, self.averages) if self.settings.rounding == "stochastic" else None
        self._guard.before_average(pairs)
        average(with_copies(pairs, optimizers), noise)
        self._guard.after_average()
        self._moved = False
        if self.settings.reset_optimizer:
            forget(self._optimizer, pairs)
        for device in {pair.tensor.device for pair in pairs if pair.tensor.is_cuda}:
            torch.cuda.synchronize(device)  # otherwise only the launch would be timed
        self.averages += 1
        self.last_average = self.steps
        self.seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu

    def importance(self) -> PastImportance:
        """Ω after this task, for `importance=` of the next: that of the past tasks, and the mean squares of this one.

        Where parameters are sharded every process has to call it.

        Raises:
            StockpotError: without beta="auto", and if no step was observed.
        """
        if self._auto is None:
            raise StockpotError("only SFA with beta='auto' knows how much weights matter.")
        return self._auto.importance(self._anchored.weights(), self._anchored.pairs())

    def save_importance(self, folder: str | os.PathLike[str]) -> None:
        """Writes `importance()` to a folder: `importance.safetensors`, and `importance.json`, which says what it is.

        Raises:
            StockpotError: as `importance` does; if the disk is full or the folder cannot be written.
        """
        self.importance().save(folder)

    def beta_profile(self) -> BetaProfile | None:
        """β as the average that was just made used it, by tensor; None without beta="auto", or where nothing pulls."""
        if self._auto is None or self._anchored.idle:
            return None
        return beta_profile(self._auto.weighed(self._anchored.pairs(), self._anchored.weights()))

    def distance(self) -> float:
        """‖θ − θ_o‖₂ over the averaged parameters, without buffers, in the unit of the weights; of LoRA ‖s·B·A‖.

        Where parameters are sharded it is that of the whole weights, and every process has to call it.

        Raises:
            StockpotError: where LoRA factors are sharded.
        """
        return distance(self._anchored.pairs())

    @property
    def anchor(self) -> Mapping[str, Tensor]:
        """θ_o by name, without the prefixes of wrappers. Do not write to it."""
        return self._anchored.anchor.tensors

    @property
    def anchor_bytes(self) -> int:
        """Memory of this process that the anchor takes beside the model, in bytes; 0 when it is memory-mapped."""
        return self._anchored.anchor.bytes

    @property
    def notes(self) -> list[str]:
        """What was decided about the model, in sentences."""
        return self._anchored.notes

    def anchor_sha256(self) -> str:
        """SHA-256 of θ_o as averages see it: the same for the same anchor, wherever and however it is stored."""
        return self._anchored.sha256()

    def progress(self) -> dict[str, Any]:
        """How far the task is: `state_dict` without the anchor."""
        counts = {"steps": self.steps, "averages": self.averages, "last_average": self.last_average}
        return {**counts, **self._compared(), "seed": self.seed}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, readable with `torch.load(…, weights_only=True)`.

        Returns:
            `steps`, `averages`, `last_average`, `beta`, `p`, `total_steps`, `every`, the `seed` of the noise, and
            `anchor`: the path of a file that stays, with its `anchor_sha256`, or else its tensors (not copied). With
            beta="auto" also the sums of squares so far (not copied); not Ω of the past tasks, which is a setting.
        """
        return {**self.progress(), **self.observed(), **self._anchored.saved()}

    def observed(self) -> dict[str, Any]:
        """The part of `state_dict` that comes from gradients: `squared_gradients` by name, and `observed` steps."""
        return {} if self._auto is None else self._auto.state()

    def load_observed(self, state: Mapping[str, Any]) -> None:
        """Continues the sums of squares from `observed`, for trainers that restore the rest themselves.

        Raises:
            StockpotError: if they are missing from the state.
        """
        if self._auto is not None:
            self._auto.load_state(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was taken: the run equals an unbroken one bit for bit.

        The anchor is the state's, unless this SFA was given a path itself: that is where it is now.

        Raises:
            StockpotError: if beta, p or every differ from the state's, or total_steps with p; if its anchor is missing
                or has changed.
        """
        check_state(state, self._compared())
        if not self.settings.anchor_is_path:
            self._watch(self._anchored.replace(saved_source(state, self._folder)))
        if state.get("anchor_sha256") not in (None, self.anchor_sha256()):
            name = self._anchored.anchor.label
            raise StockpotError(f"{name} differs, in what is trained here, from the anchor of the saved state.")
        self.load_observed(state)
        self.doubt = None
        self.steps, self.averages, self.last_average = state["steps"], state["averages"], state["last_average"]
        self.seed = state.get("seed", self.seed)
        self._moved = self.steps > self.last_average

    def _average_moved(self) -> bool:
        moved = self._moved and not self._anchored.idle
        if moved:
            self.average()
        self.last_average = self.steps
        return moved

    def _compared(self) -> dict[str, Any]:
        """The settings that a saved state must share."""
        schedule = self.schedule
        when = {"p": schedule.p, "total_steps": schedule.total_steps, "every": schedule.every}
        return {"beta": self.beta, **when, **self.settings.recorded_of_auto()}

    def _watch(self, pairs: list[TensorPair]) -> list[TensorPair]:
        self._guard.choose(pairs)
        self._guard.remember()
        return pairs
