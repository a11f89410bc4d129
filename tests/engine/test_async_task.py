"""Async functions as Celery tasks without a worker; settings and refusals of the pool."""

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from celery import Celery, Task
from celery.exceptions import ImproperlyConfigured

from skillfleet_engine import AsyncTask, LoopPool
from skillfleet_engine.celery_hooks.settings import EngineSettings


@pytest.fixture
def app() -> Celery:
    return Celery("eager", task_cls=AsyncTask, broker="memory://", set_as_current=False)


def test_calling_a_task_returns_its_result_and_gives_it_a_request(app: Celery) -> None:
    @app.task(bind=True)
    async def greet(self: Task[Any, Any], name: str) -> list[Any]:
        await asyncio.sleep(0)
        return [f"hello {name}", self.request.called_directly, self.request.args]

    assert greet("you") == ["hello you", True, ("you",)]


async def test_a_coroutine_can_await_the_function_itself(app: Celery) -> None:
    @app.task
    async def double(number: int) -> int:
        return 2 * number

    function: Any = double.run
    assert await function.__wrapped__(4) == 8


def test_eager_mode_works(app: Celery) -> None:
    app.conf.task_always_eager = True

    @app.task(bind=True, max_retries=3)
    async def third_time(self: Task[Any, Any]) -> int:
        await asyncio.sleep(0)
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return int(self.request.retries)

    assert third_time.delay().get() == 2


def test_classes_may_define_an_async_run(app: Celery) -> None:
    class Tripler(AsyncTask):
        name = "tripler"

        async def run(self, number: int) -> int:
            await asyncio.sleep(0)
            return 3 * number

    task = app.register_task(Tripler())
    assert task.apply((3,)).get() == 9


def test_settings_have_defaults_and_are_checked(app: Celery) -> None:
    assert EngineSettings.of(app) == EngineSettings()
    app.conf.engine_blocked_after = 2
    assert EngineSettings.of(app).blocked_after == 2.0
    app.conf.engine_cancel_grace = "long"
    with pytest.raises(ImproperlyConfigured, match="engine_cancel_grace must be seconds"):
        EngineSettings.of(app)


def test_a_transport_without_a_hub_is_refused_with_advice(app: Celery) -> None:
    with pytest.raises(ImproperlyConfigured, match="Choose another broker URL"):
        LoopPool(10, app=app, threads=True)


def test_the_engine_knows_nothing_of_skills() -> None:
    code = (
        "import sys, skillfleet_engine.celery_hooks.pool, skillfleet_engine.celery_hooks.consumer\n"
        "import skillfleet_engine.celery_hooks.task\n"
        "print([name for name in sys.modules if name.startswith('skillfleet')"
        " and 'engine' not in name])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_the_package_loads_its_names_at_first_use() -> None:
    code = (
        "import sys, skillfleet_engine\n"
        "assert not [name for name in sys.modules if name.startswith('celery')]\n"
        "assert skillfleet_engine.LoopConsumer and skillfleet_engine.LoopPool\n"
        "assert not hasattr(skillfleet_engine, 'Nothing')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
