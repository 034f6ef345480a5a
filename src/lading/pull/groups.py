"""Several operations at once, of which the first failure ends the others and is the failure of all."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from lading.errors import LadingError


async def together(*operations: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Run ``operations`` at once.

    Raises:
        LadingError: the first that one of them raised; the others are cancelled. Or one of them waited for something
            that was cancelled.
    """
    if len(operations) == 1:
        await operations[0]()
        return
    try:
        async with anyio.create_task_group() as group:
            for operation in operations:
                group.start_soon(operation)
        if not group.cancel_scope.cancel_called:
            return
        # Nobody cancelled this, or it would have come out as that: a group ends as if all of its tasks were done.
        failed = LadingError("the operation was cancelled from inside", hint="try again")
    except BaseExceptionGroup as failures:
        failed = first_failure(failures)
    raise failed


def first_failure(group: BaseExceptionGroup[BaseException]) -> LadingError:
    """Give the first of the failures in a task group.

    Raises:
        BaseExceptionGroup: ``group`` itself, if there is anything else in it: something is broken in here.
    """
    failures, others = group.split(LadingError)
    if failures is None or others is not None:
        raise group
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, LadingError)
    return error
