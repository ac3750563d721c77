"""Policies that decide how many documents a candidate is scored on."""
