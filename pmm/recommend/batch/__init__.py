"""Recommendations for many users into a Parquet file, piece by piece."""
