"""torch.compile with a way back."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

_LOGGER = logging.getLogger(__name__)


class compiled:
    """A function compiled at its first call, or as it is where that fails.

    Where compilation, or a run of compiled code, fails and the function itself does
    not, one warning names the reason and from then on the function runs uncompiled.
    An error of the function itself is raised as usual, and so is want of memory, which
    is no reason to run uncompiled. Inside of another compilation the function is called
    as it is. Copies and pickles compile anew.

    Args:
        function: What to compile, such as a module's ``forward``; as it may run twice
            when compiled code fails, it must not change its arguments.
        name: What to call it in the warning. None: its qualified name.
        options: Keyword arguments of :func:`torch.compile`, such as ``mode``,
            ``dynamic`` or ``fullgraph``.
    """

    def __init__(
        self, function: Callable[..., Any], *, name: str | None = None, **options: Any
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = name or getattr(function, '__qualname__', repr(function))
        self.options = options
        self.failed = False
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.failed or torch.compiler.is_compiling():
            return self.function(*args, **kwargs)
        try:
            if self._compiled is None:
                self._compiled = torch.compile(self.function, **self.options)
            return self._compiled(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            result = self.function(*args, **kwargs)  # raises if that is to blame
            self.failed = True
            self._compiled = None
            # torch.compile's errors name the backend first, then what it said.
            reason = ' '.join(str(error).splitlines()[:2])
            _LOGGER.warning(
                '%s runs uncompiled, as torch.compile failed: %s: %s',
                self.name,
                type(error).__name__,
                reason,
            )
            return result

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_compiled': None}
