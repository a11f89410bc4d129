"""A fleet over TLS, on a real server with a self-signed certificate."""

import ipaddress
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from skillfleet.errors import FleetUnavailableError
from skillfleet_producer import Fleet, Settings
from tests.support.debian import require_binary
from tests.support.fleet import FleetWorker
from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer


class TlsServer(ValkeyServer):
    """Speaks TLS to the fleet; its plain port is for the test's own look at it."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = write_certificate(folder)
        self.tls_port = free_port()
        super().__init__(
            *("--tls-port", str(self.tls_port), "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(self.certificate), "--tls-key-file", str(self.key)),
        )

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.tls_port}/0"

    unknown_rules = ("+client|setinfo",)
    """Debian's is a Redis 7.0; docs/security.md says what to leave out."""

    def binary(self) -> str:
        return str(require_binary("redis-server", "redis-server"))


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "server.pem", folder / "server.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    server = TlsServer(tmp_path_factory.mktemp("tls"))
    try:
        server.start()
        yield server
    finally:
        server.close()


def test_a_worker_and_a_producer_meet_over_tls(secure: TlsServer) -> None:
    settings = Settings.load(redis_url=secure.producer_url, redis_ca_file=secure.certificate)
    with (
        FleetWorker(secure, "tests.worker.lab", redis_ca_file=secure.certificate),
        Fleet(settings=settings) as fleet,
    ):
        run = fleet.enqueue("lab.stream", {"n": 3})
        kinds = [event.kind for event in run.events(timeout=20)]
        assert kinds == ["state", *["progress"] * 3, "state"]
        assert run.result(timeout=20) == "done"
        assert fleet.enqueue("lab.parent", {"n": 2}).result(timeout=20) == 1


def test_a_certificate_that_nobody_vouches_for_is_refused(secure: TlsServer) -> None:
    settings = Settings.load(redis_url=secure.producer_url, redis_timeout_seconds=1)
    with Fleet(settings=settings) as fleet, pytest.raises(FleetUnavailableError):
        fleet.enqueue("lab.add", {"x": 1})
