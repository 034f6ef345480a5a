"""The endpoints of the distribution specification."""
