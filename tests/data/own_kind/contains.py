"""A kind of objective of a package of its own: whether an answer contains a word."""

from evomerge.evaluation.tasks.rows import VALUES, RowsObjective


class Contains(RowsObjective):
    """Generate an answer to the prompt of each row; it counts 1 if the word of the row is in it."""

    metrics = ("share", "length")
    needed = compared = ("prompt", "word")
    columns = dict.fromkeys(needed, VALUES.text)
    row_text = '{"prompt": "...", "word": "..."}'
    uses_templates = False

    def measure(self, model, tokenizer, documents):
        answers = []
        for document in documents:
            row = self.rows[document]
            tokens = tokenizer(row["prompt"], return_tensors="pt").to(model.device)
            written = model.generate(**tokens, max_new_tokens=6, do_sample=False)[0]
            answers.append((row["word"], tokenizer.decode(written[tokens["input_ids"].shape[1] :])))
        right = [float(word in answer) for word, answer in answers]
        return {"share": right, "length": [len(answer) for _, answer in answers]}

    def words(self, merges):
        return {"contains": f"answers of {merges.host.reference} and its like are searched"}
