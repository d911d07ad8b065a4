"""Full ranking of the catalogue, metrics, cold start, comparison, galleries."""
