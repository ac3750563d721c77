"""The sections of a report, each a question: did it work, what was found, how did it go, ..."""
