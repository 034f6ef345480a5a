"""The OCI specifications as values: no await, no files, no clock, no network."""
