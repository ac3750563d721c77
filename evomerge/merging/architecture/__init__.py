"""What depends on the architecture: where tensors lie in a model, depth, folding of scales."""
