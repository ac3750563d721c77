"""The tokenizer and vocabulary of a merged model, and the rows that belong to its tokens."""
