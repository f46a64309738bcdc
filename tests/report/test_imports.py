"""What the command line imports early stays light."""

import subprocess
import sys


def test_nothing_heavy_is_loaded_before_it_is_needed() -> None:
    code = """
import sys
import stockpot.report, stockpot.report.tables, stockpot.report.findings, stockpot.report.card, stockpot.report.answers
import stockpot.report.beta_layers, stockpot.evaluation.metrics, stockpot.evaluation.statistics
heavy = {'vl_convert', 'scipy', 'jinja2', 'torch', 'transformers', 'huggingface_hub', 'rich', 'numpy'}
heavy &= set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
