"""Servers of the object store's tests."""

from collections.abc import Iterator

import pytest

from tests.support import s3


@pytest.fixture(scope="session")
def minio() -> Iterator[s3.S3Server]:
    with s3.minio() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[s3.S3Server]:
    with s3.moto() as server:
        yield server
