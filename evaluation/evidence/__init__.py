"""The evidence: benchmark, probes, tokens and ablations put together into small result files, pictures and one page.

``launchers/evidence.py`` runs the steps. :mod:`~evaluation.evidence.trim` makes the files that are kept,
:mod:`~evaluation.evidence.targets` judges them, :mod:`~evaluation.evidence.page` writes them down,
:mod:`~evaluation.evidence.agree` compares two runs' files.
"""
