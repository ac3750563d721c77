"""What a block is, where tensors lie in a model, how depth and scales change."""
