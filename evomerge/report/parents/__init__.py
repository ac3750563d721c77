"""What parents have in common before they are merged: their weights, tokenizers and templates."""
