"""Memtrace and the Arc double, killed again and again under load; then every answer ever given is checked.

Run it by hand: `PYTHONPATH=tests python -m torture --cycles 1000 --seed 7`. It prints each violation, and one line
that sums up; it exits with 1 if there was any violation.
"""
