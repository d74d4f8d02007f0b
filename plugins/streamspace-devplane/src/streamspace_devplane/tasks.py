"""Runs coroutines beside each other."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def first_done(*jobs: Coroutine[Any, Any, Any]) -> set[asyncio.Task[Any]]:
    """Run all jobs until one is done, and cancel the others. Returns those that were done by themselves."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
