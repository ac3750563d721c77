"""The tokenizer of a merged model, and the rows of embeddings and head for its tokens."""
