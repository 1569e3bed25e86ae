"""Makes one immutable snapshot of desired servers and discovered tools, with prefixes and limits.

Pure.
"""
