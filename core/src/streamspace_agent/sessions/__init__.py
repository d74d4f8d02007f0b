"""What goes on around sessions without a command: reconciling, usage, time limits, reports of progress."""
