"""An agent whose skills leave things behind: exits, threads, processes, tasks."""

import asyncio
import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from skillfleet import Agent, RunContext

agent = Agent("leaving")
_executors: list[ThreadPoolExecutor | ProcessPoolExecutor] = []


async def _exits(error: BaseException) -> None:
    await asyncio.sleep(0.01)
    raise error


@agent.skill
async def exits(ctx: RunContext, how: str) -> str:
    """Have a child task, a thread or a callback of the handler raise SystemExit."""
    if how == "gather":
        await asyncio.gather(_exits(SystemExit(2)), asyncio.sleep(5))
    elif how == "group":
        async with asyncio.TaskGroup() as group:
            group.create_task(_exits(SystemExit(2)))
    elif how == "wait_for":
        await asyncio.wait_for(_exits(SystemExit(2)), 5)
    elif how == "interrupt":
        await asyncio.gather(_exits(KeyboardInterrupt()))
    elif how == "thread":
        await asyncio.to_thread(sys.exit, 2)
    elif how == "callback":
        asyncio.get_running_loop().call_soon(sys.exit, 2)
        await asyncio.sleep(0.1)
    return how


@agent.skill
async def forks(ctx: RunContext, how: str) -> list[int]:
    """Fork, and let the child leave the handler; its exit status, and who is the parent."""
    pid = os.fork()
    if pid == 0:
        if how == "exit":
            sys.exit(3)
        return [0, os.getpid()]
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    return [os.waitstatus_to_exitcode(status), os.getpid()]


@agent.skill
async def rests(ctx: RunContext, until: str) -> str:
    """Wait until a file exists."""
    await ctx.emit_progress("resting")
    async with asyncio.timeout(120):
        while not Path(until).exists():  # noqa: ASYNC110, ASYNC240 - simple on purpose
            await asyncio.sleep(0.05)
    return "rested"


def _hang(until: str) -> None:
    while not Path(until).exists():
        time.sleep(0.05)


async def _stubborn() -> None:
    while True:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            continue


@agent.skill
async def hangs(ctx: RunContext, how: str, until: str) -> str:
    """Leave something behind that goes on until a file exists."""
    if ctx.attempt > 1:
        return "again"
    await ctx.emit_progress("hanging")
    loop = asyncio.get_running_loop()
    if how == "blocked":
        await asyncio.sleep(0.3)
        _hang(until)
    elif how == "to_thread":
        await asyncio.to_thread(_hang, until)
    elif how == "thread":
        threading.Thread(target=_hang, args=(until,)).start()
        await asyncio.sleep(600)
    elif how == "executor":
        _executors.append(ThreadPoolExecutor(1))
        await loop.run_in_executor(_executors[-1], _hang, until)
    elif how == "processes":
        _executors.append(ProcessPoolExecutor(1))
        await loop.run_in_executor(_executors[-1], _hang, until)
    elif how == "multiprocessing":
        multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,)).start()
        await asyncio.sleep(600)
    elif how == "subprocess":
        process = await asyncio.create_subprocess_exec("sleep", "60")
        await process.wait()
    elif how == "leftover":
        agent.left = loop.create_task(_stubborn())  # type: ignore[attr-defined]
        await asyncio.sleep(600)
    return how
