"""How a merge is carried out: threads, shards, checks. Not what is merged."""

from __future__ import annotations

from dataclasses import dataclass

from stockpot.merging.threads import processors


@dataclass(frozen=True)
class Options:
    """How a merge is carried out. Only `adapter_rank` changes any number of the result.

    Args:
        max_shard_size: Largest size of one weight file, such as `5GB` or `500MB` (decimal units).
        threads: Number of threads; default: one for each processor, at most eight.
        allow_bin: Read the tensors of pickles (`.bin`, `.pt`) where there are no safetensors.
        allow_nonfinite: Write NaN and infinity instead of raising an error.
        verify: Read every file back after writing it and compare checksums.
        sync: Wait until the files are on the disk.
        resume: Continue an interrupted merge from the files that it finished.
        hash_files: Record the SHA-256 of every input file in `stockpot_merge.json`.
        as_adapter: Write a merge of adapters as one adapter, exactly; see `write_adapter`.
        adapter_rank: With `as_adapter`: truncate the adapter to this rank; default: the sum of the ranks.
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
        """`threads`, or one for each processor but at most eight: the disk is rarely faster than that."""
        return self.threads or min(8, processors())
