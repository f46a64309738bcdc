"""How a merge is carried out: threads, shards, checks. None of it is part of what is merged."""

from __future__ import annotations

from dataclasses import dataclass

from stockpot.merging.threads import processors


@dataclass(frozen=True)
class Options:
    """How a merge is carried out; nothing here changes a number of it, but for `adapter_rank`.

    `as_adapter` writes a merge of adapters as one adapter, exactly, or with `adapter_rank` truncated to that rank; see
    `write_adapter`.
    """

    max_shard_size: str = "5GB"
    threads: int | None = None
    allow_bin: bool = False
    allow_nonfinite: bool = False
    verify: bool = True
    sync: bool = True
    resume: bool = False
    hash_files: bool = False
    as_adapter: bool = False
    adapter_rank: int | None = None

    @property
    def thread_count(self) -> int:
        """`threads`, or one for each processor, up to eight: the disk is no faster than that."""
        return self.threads or min(8, processors())
