"""Names and tensors of checkpoints: knows torch and safetensors, nothing about training."""

from stockpot.weights.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from stockpot.weights.names import clean_name, match_any

__all__ = ["Checkpoint", "clean_name", "match_any", "open_checkpoint", "save_checkpoint"]
