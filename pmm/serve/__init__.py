"""A model behind HTTP: recommendations, items that come and go, other models without a gap."""
