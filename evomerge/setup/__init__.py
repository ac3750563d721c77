"""From a search file to the objects of a search."""
