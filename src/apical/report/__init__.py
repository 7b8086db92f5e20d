"""The page that people look at: comparisons as one HTML file that is readable offline.

from apical import report
report.write(json.loads(Path("comparison.json").read_text()), Path("report.html"))
"""

from apical.report.page import render, write

__all__ = ["render", "write"]
