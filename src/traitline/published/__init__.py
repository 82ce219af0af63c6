"""The published study, recomputed and audited from its raw data.

`reproduce.py` is the way in. `release.py` knows the layout of the paper's release and `answers.py` its judged answers; one room
each recomputes a part of it (`significance.py`, `directions.py`, `extraction.py`, `facets.py`, `controls.py`), `leaks.py` and
`audit.py` tell what is wrong with it, and `importer.py` turns it into the ordinary tables of a study, from which figures and
report are made. Every statistic comes from `analysis/`.
"""
