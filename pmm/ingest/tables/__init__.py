"""A source as two clean tables: interactions and items; and its ids as integers."""
