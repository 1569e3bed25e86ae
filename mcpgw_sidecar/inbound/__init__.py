"""The one way in: who asks, in which era, in which session, and what the asking client sees. Pure."""
