"""How the embedded judge was made: `python -m traitline.judges.training` makes it again, on a CPU or a GPU.

`rows.py` reads the published scores and splits them, `augment.py` and `continuations.py` write variants of answers,
`teacher.py` is the larger network that labels them, `fit.py` trains either network, `figures.py` measures a judge on held-out
rows. The judge itself, `traitline.judges.distilled`, imports none of this.
"""
