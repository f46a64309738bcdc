"""Batches of examples, and the logits that a model gives for them: what models, importances and streams share."""
