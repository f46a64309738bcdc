"""What a merge reads from: checkpoints on disk, state dicts in memory, LoRA adapters over their bases."""
