"""What a parent is: a checkpoint on disk, its tensors and its block stacks. No torch."""
