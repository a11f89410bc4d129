"""The tests that must notice a mutant of each script, the quickest first.

Left out are tests that draw at random or take long (test_scripts_stateful, test_storm,
test_residue): a verdict must be the same each time.
"""

_LEASE = ("test_fences", "test_measures", "test_replies")
_ENDS = ("test_debts", "test_canvases", "test_ending", "test_cancel")
_DURABLE = (
    *("test_durable_fences", "test_waits", "test_inbox", "test_journals", "test_parking"),
    *("test_kept_calls", "test_nonsense"),
)
_HELD = ("test_held", "test_sessions")
_SCHEDULES = ("test_schedules",)
_ALL = (
    *_DURABLE,
    *("test_script_batches", *_LEASE, *_ENDS, "test_claim", "test_reap", "test_submit"),
    *("test_tree_limits", "test_queues", "test_artifacts", "test_release"),
    *("test_kept_events", "test_search", *_HELD, *_SCHEDULES),
)

SUITES: dict[str, tuple[str, ...]] = {
    "append": (
        *("test_journals", *_LEASE, "test_kept_events", "test_cancel", "test_ending"),
        "test_streams",
    ),
    "request_cancel": ("test_replies", "test_debts", "test_measures", "test_parking"),
    "batch": ("test_script_batches",),
    "begin_upload": ("test_objects", *_LEASE),
    "cancel": ("test_replies", *_ENDS, "test_measures", "test_parking", *_HELD),
    "compact": ("test_compaction",),
    "claim": (
        *("test_journals", "test_waits", "test_parking", "test_versions"),
        *_LEASE,
        "test_kept_events",
        "test_nonsense",
        "test_claim",
        "test_debts",
        "test_cancel",
        "test_reap",
        *_HELD,
    ),
    "copy_entries": ("test_fork", "test_journals"),
    "decide": ("test_waits", "test_parking"),
    "defer": ("test_versions",),
    "drop_message": ("test_inbox", "test_durable_fences", "test_waits"),
    "end_parking": ("test_parking",),
    "end_unclaimed": (*_LEASE, *_ENDS, "test_reap", "test_parking", *_HELD),
    "commit_artifact": (*_LEASE, "test_artifacts"),
    "common": _ALL,
    "expire_lease": (*_LEASE, "test_claim"),
    "follow": ("test_kept_events", "test_streams"),
    "charge_call": (*_LEASE, "test_tree_limits"),
    "reap": (
        *_SCHEDULES,
        *("test_journals", "test_waits", "test_parking"),
        "test_debts",
        "test_canvases",
        "test_nonsense",
        "test_measures",
        "test_replies",
        "test_reap",
        "test_claim",
        "test_queues",
        "test_kept_events",
        "test_search",
        "test_held",
    ),
    "hold": ("test_held",),
    "open_wait": ("test_waits", "test_durable_fences", "test_inbox"),
    "park": ("test_parking", *_SCHEDULES, "test_durable_fences", "test_waits", "test_measures"),
    "reap_held": _HELD,
    "receive": ("test_inbox", "test_durable_fences", "test_waits", "test_sessions"),
    "record": ("test_journals", "test_waits", "test_durable_fences", "test_release"),
    "reopen_wait": ("test_waits", "test_durable_fences"),
    "release": ("test_held",),
    "renew": (*_LEASE, "test_claim", "test_reap"),
    "requeue": (
        *("test_journals", *_LEASE, *_ENDS, "test_kept_events", "test_release", "test_claim"),
        "test_reap",
    ),
    "search": ("test_search", "test_held"),
    "send": ("test_inbox",),
    "settle": (*_LEASE, *_ENDS, "test_parking", *_HELD),
    "snapshots": ("test_search",),
    "charge_tokens": (*_LEASE, "test_tree_limits"),
    "finish_cleanup": ("test_debts", "test_replies"),
    "submit": (
        *_LEASE,
        "test_submit",
        "test_tree_limits",
        "test_debts",
        "test_queues",
        "test_search",
        "test_sessions",
    ),
    "take_canvas": ("test_canvases",),
    "withdraw_wait": ("test_waits", "test_durable_fences"),
    "due_schedules": _SCHEDULES,
    "due_uploads": ("test_objects",),
    "due_workspaces": ("test_workspaces",),
    "hold_workspace": ("test_workspaces",),
    "publish_workspace": ("test_workspaces",),
    "remove_schedule": _SCHEDULES,
    "write_schedule": _SCHEDULES,
    "write_chunk": (*_LEASE, "test_artifacts"),
}

SLOW = (
    "tests/ledger/test_artifacts.py::test_memory_stays_bounded_however_large_the_artifact",
    "tests/ledger/test_objects.py::test_memory_stays_bounded_however_large_the_artifact",
    "tests/ledger/test_cancel.py::test_a_run_with_ten_thousand_children_can_be_cancelled",
    "tests/ledger/test_debts.py::test_a_debt_of_thousands_is_paid",
)
"""Tests of these files that are left out, too."""


def files(script: str) -> list[str]:
    """The test files of a script, as paths from the repository's root."""
    return [f"tests/ledger/{name}.py" for name in SUITES[script]]
