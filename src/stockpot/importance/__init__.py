"""How much each weight matters: the diagonal Fisher, and the sensitivity of the outputs."""
