"""What the options of verbs that use the network make."""

from argparse import Namespace

from update_agent.net.settings import TransferSettings


def transfer_settings(args: Namespace, *, max_failures_per_url: int | None = None) -> TransferSettings:
    """The settings that the options make; `max_failures_per_url` is what the update server wants.

    Raises:
        ConfigurationError: configuration.
    """
    defaults = TransferSettings()
    return TransferSettings(
        connect_timeout_secs=args.connect_timeout,
        stall_secs=args.stall_timeout,
        max_bytes=args.max_size,
        rate_limit_bytes_per_sec=args.limit_rate,
        proxy=args.proxy,
        ca_file=args.ca,
        client_cert=args.client_cert,
        max_failures_per_url=args.attempts or max_failures_per_url or defaults.max_failures_per_url,
    )
