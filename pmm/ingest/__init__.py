"""Raw dataset -> interactions and items -> core -> split. No torch in this room."""
