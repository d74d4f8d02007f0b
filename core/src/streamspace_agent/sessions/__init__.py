"""What happens to sessions without a command."""
