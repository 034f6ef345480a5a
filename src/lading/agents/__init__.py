"""What an agent artifact is: pure rules, no network, no files."""
