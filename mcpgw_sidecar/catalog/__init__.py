"""Desired servers and discovered tools become one immutable snapshot: prefixes, conflicts, limits. Pure."""
