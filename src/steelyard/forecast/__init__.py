"""Forecasts: tables of runs, laws of loss, fits that converge, and what they do not know.

`runs.read_runs` reads a table, `laws.get` finds a law, `fitting.fit` fits it, `uncertainty` says how sure it is,
`choosing.compare` which law to believe. Nothing here needs torch.
"""
