"""Text from outside becomes plain, checked values: YAML, JSON, and what they may hold."""
