"""Clients and chaos for minutes or hours: no wrong answer, no failure that nothing explains.

`python -m tests.soak --help` has the settings; `just soak MINUTES` runs all of them.
"""
