"""Full ranking, metrics, references."""
