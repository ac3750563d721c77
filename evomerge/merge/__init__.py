"""The merge backend: pure tensor methods, lazy readers, in-place and out-of-core merging."""
