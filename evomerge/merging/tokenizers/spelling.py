"""What a token stands for: the bytes of a text. It lets tokens of two spellings be compared.

` the` is `Ġthe` in a byte-level vocabulary and `▁the` in one of SentencePiece. A byte that is part
of a letter is a sign of its own in the first, and `<0xE2>` in the second.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evomerge.errors import CheckpointError
from evomerge.merging.tokenizers.tokens import Tokens, panics_as_errors, spelling

_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"
_ENDS = ("continuing_subword_prefix", "end_of_word_suffix")


def _signs() -> dict[int, str]:
    """Return the sign of each byte in byte-level vocabularies (GPT-2's `bytes_to_unicode`).

    A byte that Latin-1 prints is its own sign; the others get the next signs from 256 on.
    """
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {byte: chr(byte) for byte in printed} | {
        byte: chr(256 + number) for number, byte in enumerate(others)
    }


_SIGNS = _signs()
_BYTES = {sign: byte for byte, sign in _SIGNS.items()}


@dataclass(frozen=True, eq=False)
class Spelled:
    """The tokens of a model by what they stand for; of several with one text only the first.

    Attributes:
        ordinary: bytes -> id, for tokens that are parts of texts.
        added: text -> id, for added tokens (special ones and others).
    """

    tokens: Tokens
    ordinary: Mapping[bytes, int]
    added: Mapping[str, int]

    @classmethod
    def of(cls, tokens: Tokens) -> Spelled:
        """Return the tokens of a model.

        Raises:
            CheckpointError: its tokenizer marks the parts of words in another way (WordPiece).
        """
        _check_marks(tokens)
        level = spelling(tokens) == "byte-level"
        found: dict[bytes, int] = {}
        fallback: dict[bytes, int] = {}
        for text, i in tokens.model.items():
            byte = _FALLBACK.fullmatch(text)
            if text in tokens.added:
                continue
            if level and all(sign in _BYTES for sign in text):
                found.setdefault(bytes(_BYTES[sign] for sign in text), i)
            elif byte and not level:
                fallback[bytes.fromhex(byte[1])] = i
            else:
                found.setdefault(text.replace(_SPACE, " ").encode(), i)
        for text, entry in tokens.added.items():
            if not entry.get("special"):
                found.setdefault(text.encode(), entry["id"])
        added = {text: entry["id"] for text, entry in tokens.added.items()}
        return cls(tokens, {**fallback, **found}, added)

    def pieces(self, texts: Iterable[bytes]) -> list[list[int]]:
        """Return for each text the tokens that the tokenizer's model cuts it into.

        The cut of the pre-tokenizer, which would begin a word, is left out. A text that the model
        does not know has no pieces.
        """
        from tokenizers import Tokenizer

        kind = spelling(self.tokens)
        with panics_as_errors():
            model = Tokenizer.from_str(json.dumps(self.tokens.data)).model
        settings = self.tokens.data["model"]
        unknown = {-1, self.tokens.ids.get(settings.get("unk_token") or ""), settings.get("unk_id")}

        def cut(text: bytes) -> list[int]:
            try:
                if kind == "byte-level":
                    spelled = "".join(_SIGNS[byte] for byte in text)
                else:
                    spelled = text.decode().replace(" ", _SPACE if kind == "SentencePiece" else " ")
            except UnicodeDecodeError:  # part of a letter
                return [self.ordinary.get(bytes([byte]), -1) for byte in text]
            with panics_as_errors():
                return [piece.id for piece in model.tokenize(spelled)]

        return [ids if unknown.isdisjoint(ids) else [] for ids in map(cut, texts)]


def _check_marks(tokens: Tokens) -> None:
    model = tokens.data["model"]
    marks = [key for key in _ENDS if model.get(key)]
    if marks:
        raise CheckpointError(
            f"The tokenizer of {tokens.reference!r} marks parts of words ({marks[0]}: "
            f"{model[marks[0]]!r}), so its tokens cannot be compared with those of causal language "
            "models; give a model with byte-level or SentencePiece tokens."
        )
