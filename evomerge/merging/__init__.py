"""The merge backend: from a recipe to a merged model, in memory or as a checkpoint on disk."""
