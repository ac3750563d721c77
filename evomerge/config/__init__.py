"""The search file: schema, defaults, messages, presets."""
