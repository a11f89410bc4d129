"""Celery's result backend in a worker; the ledger writes the results of runs."""

from typing import Any

from celery.backends.redis import RedisBackend

from skillfleet_worker.celery_hooks.skill_task import SkillTask


class LedgerBackend(RedisBackend):
    """Celery's Redis backend, except that it never writes the result of a skill's run.

    The script that settles a run writes it, in the same format and under the same key.
    """

    app: Any

    def store_result(
        self,
        task_id: Any,
        result: Any,
        state: Any,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Store the result of a plain task, or of a run that never starts; nothing for other runs.

        What is chained after a failed task never starts; Celery passes its signature as `request`.
        """
        name = getattr(request, "task", None) or getattr(request, "name", None)
        never_starts = hasattr(request, "subtask_type")
        if isinstance(self.app.tasks.get(name), SkillTask) and not never_starts:
            return result
        return super().store_result(task_id, result, state, traceback, request, **kwargs)
