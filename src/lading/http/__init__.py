"""Bytes over HTTP: one protocol, and rings that wrap it."""
