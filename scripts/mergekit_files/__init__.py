"""Builds mergekit files with evomerge and with mergekit, and compares the models."""
