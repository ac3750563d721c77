"""From a journal to tables, pictures and a model card."""
