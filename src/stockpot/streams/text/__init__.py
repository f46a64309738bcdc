"""Text as examples: columns and templates → strings → tokens → sequences to learn from."""
