"""Merging checkpoints: from what was asked to a folder that `from_pretrained` loads.

asked     spec, settings; mergekit reads its YAML
read      opening, sources, adapters, fishers
planned   places, plan, estimate: from headers alone
computed  contract and rules/: one file a rule; cuts, masks, engine, work
written   shards, writer, folder; beside the weights donor, configuration, publish, card; adapter_output
around    api: `stockpot.merge`; greedy, soup; inspection and comparison: `stockpot inspect`
"""
