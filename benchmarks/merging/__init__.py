"""Parts of `benchmarks/merge.py`: the models that are merged, and a merge in memory."""
