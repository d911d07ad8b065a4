"""Pictures as they lie in raw data: in a folder by name, in an LMDB store, in a pickle."""
