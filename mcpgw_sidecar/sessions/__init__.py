"""Sessions: seals and verifies ids, and holds the tables of open and ended sessions.

Pure: callers pass the time.
"""
