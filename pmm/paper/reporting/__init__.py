"""The tables from the runs: figures of cells, pages, and checking both again."""
