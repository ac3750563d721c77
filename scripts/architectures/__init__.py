"""Checks merges and layer stacks of many architectures with transformers as the judge."""
