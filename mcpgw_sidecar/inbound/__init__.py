"""The one way in: classifies a request by its era, its session and its client's view. Pure."""
