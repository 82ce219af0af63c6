"""What a run looks like: figures as files and one page that opens without a network. Nothing here loads a network or scores."""

from traitline.report.comparison_page import write_comparison
from traitline.report.figures import write_figures
from traitline.report.page import write_report

__all__ = ["write_comparison", "write_figures", "write_report"]
