"""What a checkpoint holds, and how two differ: `stockpot inspect`."""
