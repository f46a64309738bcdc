"""The cost of squared per-example gradients: CPU seconds of vmap(grad) over those of our empirical Fisher."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from stockpot.batches.examples import TensorExamples
from stockpot.batches.outputs import logits_of
from stockpot.importance.fisher import fisher
from stockpot.models.networks import mlp

EXAMPLES, CLASSES = 2048, 10


def ours(model: nn.Module, data: TensorExamples, batch_size: int) -> dict[str, Tensor]:
    """Stockpot's empirical Fisher."""
    return fisher(model, data, "empirical", logits=logits_of, batch_size=batch_size)


def vmapped(model: nn.Module, data: TensorExamples, chunk: int) -> dict[str, Tensor]:
    """torch.func alone: per-example gradients, squared, summed."""
    weights = {name: tensor.detach() for name, tensor in model.named_parameters()}

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, values, (x[None],))
        return nn.functional.cross_entropy(logits, y[None])

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    total = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for x, y in zip(data.pixel_values.split(chunk), data.labels.split(chunk), strict=True):
        for name, gradient in gradients(weights, x, y).items():
            total[name] += gradient.square_().sum(0)
    return {name: tensor / len(data) for name, tensor in total.items()}


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of one call, all threads together."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Prints the medians, and the ratios with their spread over several chunk sizes, some of which favour vmap."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--chunks", type=int, nargs="+", default=[4, 8, 16, 64, 256])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = mlp(CLASSES).eval()
    data = TensorExamples(torch.randn(EXAMPLES, 1, 28, 28), torch.randint(CLASSES, (EXAMPLES,)))
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    print(f"MLP 784-400-400-10, {EXAMPLES:,} examples, {torch.get_num_threads()} thread(s), OMP_NUM_THREADS {threads}")
    own, peer = ours(model, data, arguments.batch_size), vmapped(model, data, 16)
    for name, tensor in peer.items():
        torch.testing.assert_close(own[name], tensor, rtol=1e-3, atol=1e-3 * float(tensor.max()))
    own_seconds, peer_seconds = list[float](), {chunk: list[float]() for chunk in arguments.chunks}
    for _ in range(arguments.repetitions):
        own_seconds.append(cpu_seconds(partial(ours, model, data, arguments.batch_size)))
        for chunk, seconds in peer_seconds.items():
            seconds.append(cpu_seconds(partial(vmapped, model, data, chunk)))
    print(f"stockpot, batches of {arguments.batch_size}: {statistics.median(own_seconds):.3f} s of CPU time")
    for chunk, seconds in peer_seconds.items():
        ratios = [other / ours_took for ours_took, other in zip(own_seconds, seconds, strict=True)]
        spread = f"median {statistics.median(ratios):.1f}, range {min(ratios):.1f} to {max(ratios):.1f}"
        print(f"vmap(grad), {chunk} at once: {statistics.median(seconds):.2f} s; ratio {spread}")


if __name__ == "__main__":
    main()
