"""`charstream loadtest report`: the page, plots and tables of a result."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from charstream.settings import Positional, Settings, fail, parse
from loadtest.measures.document import Document, read_document, write_document
from loadtest.settings import LoadtestSettings

__all__ = ["ReportSettings", "keep_result", "main", "write_report"]

COMMAND = "charstream loadtest report"


class ReportSettings(Settings):
    """Writes a page of a result, report.html, which needs no network, and its figures as CSV."""

    result: Annotated[Path, Positional()] = Field(description="a file that --result wrote")
    out: Path | None = Field(None, description="the folder (default: that of the result)")
    png: bool = Field(False, description="the plots as PNG files, too")


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(ReportSettings, argv, command=COMMAND)
    try:
        content = read_document(settings.result)
        folder = settings.out or settings.result.parent
        folder.mkdir(parents=True, exist_ok=True)
        print(write_report(content, folder, png=settings.png))
    except ValueError as error:
        fail(COMMAND, str(error))
    except OSError as error:
        fail(COMMAND, f"{error.filename or settings.out}: {(error.strerror or str(error)).lower()}")
    return 0


def write_report(content: Document, folder: Path, *, png: bool = False) -> Path:
    """Write report.html, measures.csv and series.csv, with `png` the plots too. Return the page's path."""
    # Not above: matplotlib takes a second to import, and a run without a report needs none of it.
    from loadtest.report.figures import figures
    from loadtest.report.page import page
    from loadtest.report.tables import measures_csv, series_csv

    plots = figures(content)
    (folder / "measures.csv").write_text(measures_csv(content), encoding="utf-8")
    (folder / "series.csv").write_text(series_csv(content), encoding="utf-8")
    for plot in plots if png else ():
        (folder / f"{plot.name}.png").write_bytes(plot.png())
    path = folder / "report.html"
    path.write_text(page(content, plots), encoding="utf-8")
    return path


def keep_result(settings: LoadtestSettings, content: Document) -> None:
    """Write the result where --result and --report say."""
    if settings.result:
        write_document(settings.result, content)
    if settings.report:
        settings.report.mkdir(parents=True, exist_ok=True)
        write_document(settings.report / "result.json", content)
        write_report(content, settings.report, png=settings.png)


if __name__ == "__main__":
    sys.exit(main())
