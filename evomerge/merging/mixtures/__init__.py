"""Mixtures of experts made of dense models: their shapes, their routers, their checkpoints."""
