"""The same jobs on every controller: how fast, and what each request takes."""

from drivebay.lab.compare.guest import compare_in_guest
from drivebay.lab.compare.inprocess import compare_in_process
from drivebay.lab.compare.jobs import CONTENDERS, JOBS, WRITES, Contender, Job
from drivebay.lab.compare.page import NoPainter, html_page, overview_svg, write_png
from drivebay.lab.compare.results import Comparison, Costs, Row
from drivebay.lab.compare.run import compare
from drivebay.lab.compare.table import text_table

__all__ = [
    "CONTENDERS",
    "JOBS",
    "WRITES",
    "Comparison",
    "Contender",
    "Costs",
    "Job",
    "NoPainter",
    "Row",
    "compare",
    "compare_in_guest",
    "compare_in_process",
    "html_page",
    "overview_svg",
    "text_table",
    "write_png",
]
