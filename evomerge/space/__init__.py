"""Search spaces: genes, and the map between genomes and recipes."""
