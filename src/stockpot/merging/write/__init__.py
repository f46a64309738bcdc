"""What a merge leaves on disk: weights, configuration, tokenizer, model card, recipe."""
