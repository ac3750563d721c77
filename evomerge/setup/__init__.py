"""Making the objects of a search from a search file."""
