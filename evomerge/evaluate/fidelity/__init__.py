"""How many documents a candidate is scored on."""
