"""What tests of the agent and of its plugins share. Needs the ``testing`` extra; the agent itself never imports it."""
