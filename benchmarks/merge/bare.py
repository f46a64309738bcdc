"""A minimal linear merge of two bf16 checkpoints: two threads over the tensors, and a streaming writer.

It checks nothing, reads no configuration and knows one type: `stockpot merge linear` is measured against it.

    python bare.py A B OUT
"""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
from pathlib import Path
from typing import Any

import torch

PIECE = 1 << 18


def header(file: Path) -> tuple[int, dict[str, Any]]:
    """The offset of the first tensor, and the header."""
    with file.open("rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
        return length + 8, json.loads(handle.read(length))


def main(first: Path, second: Path, output: Path) -> None:
    """Writes the mean of two checkpoints with the same shards."""
    torch.set_num_threads(1)
    output.mkdir()
    jobs = []
    for file in sorted(first.glob("*.safetensors")):
        start, head = header(file)
        handles = [os.open(folder / file.name, os.O_RDONLY) for folder in (first, second)]
        written = os.open(output / file.name, os.O_RDWR | os.O_CREAT)
        os.pwrite(written, os.pread(handles[0], start, 0), 0)
        for name, facts in head.items():
            if name != "__metadata__":
                low, high = facts["data_offsets"]
                jobs += [
                    (*handles, written, start + place, min(2 * PIECE, high - place))
                    for place in range(low, high, 2 * PIECE)
                ]
    queue, lock = iter(jobs), threading.Lock()

    def work() -> None:
        wide = [torch.empty(PIECE) for _ in range(2)]
        raw = [torch.empty(PIECE, dtype=torch.bfloat16) for _ in range(3)]
        views = [tensor.view(torch.uint8).numpy().data for tensor in raw]
        while True:
            with lock:
                job = next(queue, None)
            if job is None:
                return
            *handles, written, place, nbytes = job
            count = nbytes // 2
            for tensor, view, narrow, handle in zip(wide, views, raw, handles, strict=False):
                os.preadv(handle, [view[:nbytes]], place)
                tensor[:count].copy_(narrow[:count])
            wide[0][:count].mul_(0.5).add_(wide[1][:count], alpha=0.5)
            raw[2][:count].copy_(wide[0][:count])
            os.pwrite(written, views[2][:nbytes], place)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
