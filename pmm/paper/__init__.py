"""The paper's tables and figure: which runs each needs, running them, a report, checking it."""
