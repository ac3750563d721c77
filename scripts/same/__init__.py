"""Keeps what searches and merges give, and compares what they give after a change."""
