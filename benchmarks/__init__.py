"""What pulls cost, measured."""
