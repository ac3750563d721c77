"""From a recipe to tensors: what is read, how it is merged."""
