"""Commands of a run that answers: recommendations, export, server, page."""
