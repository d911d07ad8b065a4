"""The commands that collect finished runs into tables and pages."""
