"""What several plots of checks share."""

from matplotlib.axes import Axes

__all__ = ["entitle"]


def entitle(axes: Axes, text: str) -> None:
    """A panel's own title, smaller than the figure's, at its left."""
    axes.set_title(text, loc="left", fontsize=10)
