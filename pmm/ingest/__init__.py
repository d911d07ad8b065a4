"""Raw dumps -> clean tables -> targets that are filtered, split and counted; no torch."""
