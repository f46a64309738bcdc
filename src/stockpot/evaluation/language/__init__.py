"""Scores of language models: of what they find likely, of what they write, and of what their code does."""
