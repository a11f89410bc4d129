"""The clock of Redis, by which the ledger's times are compared."""

from skillfleet_ledger.redis_client.connection import Connection


async def redis_now_ms(connection: Connection) -> int:
    """Return Redis time, milliseconds since the epoch; raises FleetUnavailableError."""
    seconds, micros = await connection.execute("TIME")
    return int(seconds) * 1000 + int(micros) // 1000
