"""The page of a result: complete without a network, with units, and with nothing that a text could break."""

import csv
import re
from pathlib import Path
from typing import Any

from loadtest.__main__ import main
from loadtest.measures.document import document, run_document, write_document
from loadtest.origin import describe_origin
from loadtest.settings import Scenario
from tests.loadtest.measures.test_measures import measure, streams


def run(load: int, **facts: Any) -> dict[str, Any]:
    checks = {"checked": 3, "alone": 1, "differing": 1, "differences": ["expected '<b>', received '</pre>'"]}
    server = [{"at": float(at), "rows": at, "memory": 2.0**27, "cpu seconds per second": 0.5} for at in range(1, 5)]
    return run_document(
        measure(streams(300)),
        checks=checks,
        scenario=Scenario().model_dump(mode="json"),
        users=load,
        load=load,
        warmup=0.5,
        processes=1,
        hosts=["127.0.0.1:50051"],
        generator={"cores": 0.1, "us_per_message": 40.0},
        server={"series": server, "counts": {"chars": {"server": 5, "client": 4}}, "memory_slope": 0.1},
        notes=["near <the> limit"],
        **facts,
    )


def test_the_page_and_the_tables_have_everything(tmp_path: Path) -> None:
    content = document("sweep", describe_origin(), [run(1), run(2), run(4)], {"knee": 2, "unit": "users"})
    write_document(tmp_path / "result.json", content)
    assert main(["report", str(tmp_path / "result.json"), "--out", str(tmp_path / "out"), "--png"]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 4
    assert not re.search(r'(src|href)="(?!#)', page.replace('xlink:href="#', ""))
    assert "near &lt;the&gt; limit" in page
    assert "&#x27;&lt;/pre&gt;" in page
    for word in ("time to first character", "(end - arrival of the first message) / (characters - 1)", "hdrhistogram"):
        assert word in page
    assert "var(--ink)" in page
    assert "prefers-color-scheme: dark" in page
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {
        "report.html", "measures.csv", "series.csv", "throughput.png", "time.png", "distributions.png", "server.png",
    }  # fmt: skip
    with (tmp_path / "out" / "measures.csv").open() as lines:
        rows = {(row["run"], row["measure"]): row for row in csv.DictReader(lines)}
    assert rows["3", "first"]["unit"] == "ms"
    assert float(rows["3", "first"]["p99"]) == content["runs"][2]["measures"]["first"]["p99"]
