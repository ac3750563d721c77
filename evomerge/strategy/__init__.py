"""Search strategies: they propose recipes and are told the outcomes."""
