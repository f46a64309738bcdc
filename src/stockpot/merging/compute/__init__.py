"""The arithmetic: pieces of tensors, merged by a rule, on several threads."""
