"""What every stage shares on disk: artefacts, table schemas, the home folder, TOML files."""
