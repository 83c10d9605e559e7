"""Store in a directory on disk, shared by processes of one machine: `store` says how it works."""
