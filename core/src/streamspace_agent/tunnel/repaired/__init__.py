"""Screens through the viewer relay of a repaired control plane: a queue for each session, and ``vnc_close`` always
comes.
"""
