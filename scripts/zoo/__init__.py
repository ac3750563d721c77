"""How the embedded models (`evomerge.zoo`) and the documents of their tasks were made."""
