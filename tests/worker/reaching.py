"""Agent of the tests of egress on real workers."""

from skillfleet import Agent, RunContext
from skillfleet.ports.sandbox import HostSecret, SandboxSpec

reaching = Agent("reaching", description="Reaches a host from sandboxes")

SPEC = SandboxSpec("box", egress=("localhost",), secrets=(HostSecret("api-key", "localhost"),))

CODE = """
import http.client, os, socket
class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["SKILLFLEET_EGRESS_SOCKET"])
host = Connection("localhost", {port})
host.request("GET", "/")
print(host.getresponse().read().decode(), end="")
"""


@reaching.skill(secrets=("api-key",))
async def ask(ctx: RunContext, port: int) -> str:
    """Return what a host answers to a sandbox."""
    box = await ctx.sandbox.create(SPEC)
    return (await box.exec("python3", ["-I", "-c", CODE.format(port=port)], timeout=60)).output


@reaching.skill()
async def undeclared(ctx: RunContext) -> None:
    """Use a secret that this skill did not declare."""
    await ctx.sandbox.create(SPEC)
