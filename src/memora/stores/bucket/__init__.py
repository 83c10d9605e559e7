"""Store in a bucket (S3, Google, Azure), shared by machines: `store` says how it works."""
