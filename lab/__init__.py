"""The set-up layer of `make demo`, `make test` and the benchmarks: engine, images, registry, Redis, Podman.

Everything here runs as `python -m lab ...` from the repository root, and cleans up by its own pids and folders only.
"""
