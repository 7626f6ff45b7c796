"""update_engine's number for an error, as the update server is told; without flags."""

from typing import Final

from update_agent.api.forms import ERROR_FORMS
from update_agent.errors import UpdateAgentError
from update_agent.net.failures import HttpStatusError

_HTTP_CODE_BASE: Final = 2000


def omaha_code(error: UpdateAgentError) -> int:
    """Of an error of an update."""
    return ERROR_FORMS[error.kind].omaha_code


def check_code(error: UpdateAgentError) -> int:
    """Of an error of a check: HTTP statuses count from 2000."""
    return _HTTP_CODE_BASE + error.status if isinstance(error, HttpStatusError) else omaha_code(error)
