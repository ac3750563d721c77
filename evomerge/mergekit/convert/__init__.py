"""Converting the configs of searches that merge with mergekit to search files."""

from evomerge.mergekit.convert.draft import Conversion
from evomerge.mergekit.convert.file import convert, convert_file

__all__ = ["Conversion", "convert", "convert_file"]
