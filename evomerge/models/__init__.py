"""Parents: checkpoints on disk, their tensors and their block stacks. No weights are loaded."""
