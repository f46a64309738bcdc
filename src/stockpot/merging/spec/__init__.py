"""What the user asks for: a merge as data, from Python, the command line or mergekit's YAML."""
