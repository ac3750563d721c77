"""Search spaces: genes and the two-way map genome <-> recipe."""
