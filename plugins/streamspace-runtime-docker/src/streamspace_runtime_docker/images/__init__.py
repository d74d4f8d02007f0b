"""Images: which may be used, which are there, and how others are pulled."""
