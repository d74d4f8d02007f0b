"""Screens through the viewer relay of a repaired control plane, which has a queue for each session."""
