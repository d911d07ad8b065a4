"""Any number of finished runs beside one another: differences, tables, curves."""
