"""From a recipe to merged tensors: planning them, reading their sources, making them."""
