"""Nothing of a sandbox survives the death of its worker."""

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

from tests.adapters.sandbox.conftest import provider_of
from tests.support.waiting import eventually

WORKER = """
import asyncio, sys
from pathlib import Path
from skillfleet import LocalRunContext, NoAuth
from skillfleet.ports.sandbox import SandboxSpec
from tests.adapters.sandbox.conftest import provider_of

async def main():
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_of(sys.argv[1], Path(sys.argv[2])))
    box = await ctx.sandbox.create(SandboxSpec("box"))
    async def note(*_):
        print("started", flush=True)
    await box.shell(sys.argv[3], on_output=note)
asyncio.run(main())
"""
