"""What scores of language models are made of: likelihoods, continuations, and a sandbox for programs."""
