"""What changes the configuration, and then tells the daemon."""

from argparse import Namespace

from update_agent.api.forms import ExitStatus
from update_agent.cli.client import connect_agent
from update_agent.cli.console import Console
from update_agent.cli.verbs import config
from update_agent.errors import Kind, ServiceError


def run_channel(args: Namespace, console: Console) -> ExitStatus:
    """Print or choose the channel."""
    return config.run_channel(args, console, reload=lambda _: _reload(args))


def run_config_import(args: Namespace, console: Console) -> ExitStatus:
    """Take a cloud-config over."""
    return config.run_config_import(args, console, reload=lambda _: _reload(args))


def _reload(args: Namespace) -> bool:
    """Let the daemon read its configuration again; False if it does not run."""
    try:
        connect_agent(args).reload()
    except ServiceError as error:
        if error.kind is Kind.SERVICE_UNREACHABLE:
            return False
        raise
    return True
