"""What happens to sessions without a command.

Here are the comparison with the engine (reconciler), heartbeats, idle times, time limits, CPU and memory
(usage), and the steps of starts (progress).
"""
