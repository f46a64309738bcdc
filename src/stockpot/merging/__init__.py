"""Merging checkpoints: from what the user asks for to a folder that `from_pretrained` loads.

A merge goes through five folders, each of which uses only those above it and the shared files below:

spec/     what the user asks for: `MergeSpec`, mergekit's YAML, the parameters of one tensor
read/     where tensors come from: folders, the hub, state dicts, LoRA adapters over their bases
plan/     what will be done to each tensor, decided from headers alone; costs and output files
compute/  the engine: pieces of tensors, merged by a rule on several threads
write/    the output: weight files, configuration, tokenizer, model card, recipe; or an adapter

rule.py is the contract of a merge rule, rules/ has one file for each, threads.py runs pieces on threads.
api.py is `stockpot.merge`; greedy_soup.py and soup_candidates.py choose which models to average.
"""
