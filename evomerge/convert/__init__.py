"""Converting the configs of other search tools to search files."""

from evomerge.convert.draft import Conversion
from evomerge.convert.file import convert, convert_file

__all__ = ["Conversion", "convert", "convert_file"]
