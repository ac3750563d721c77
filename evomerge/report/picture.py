"""A matplotlib figure that notebooks show as a picture. Imported only where one is drawn."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class Picture(Figure):
    """A figure that needs no pyplot to be shown in a notebook."""

    def _repr_png_(self) -> bytes:
        """Return the picture as Jupyter asks for it."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=self.dpi)
        return buffer.getvalue()
