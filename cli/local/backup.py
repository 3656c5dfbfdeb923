"""A broker that only the owner of its disk can reach, to restore a log into."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from cli.local.broker import Broker
from cli.local.instance import Credentials, Instance
from cli.local.streams import provision_with
from events.codec import encode
from events.nats.provision import Retention

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class PrivateInstance(Instance):
    """An instance whose broker only the owner of its disk can reach."""

    def __init__(self, data: Path | None = None) -> None:
        super().__init__(data)
        self._url = ""

    @property
    def conf(self) -> Path:
        return self.data / "restore.conf"

    @property
    def log_file(self) -> Path:
        return self.data / "restore.log"

    @property
    def url(self) -> str:
        return self._url

    def record_url(self, url: str) -> None:
        self._url = url

    def write_conf(self) -> None:
        """Write the configuration: the log's account, the admin's key, loopback."""
        text = {
            "store_dir": str(self.store),
            "pid_file": str(self.pid_file),
            "nkey": self.public_key("admin"),
        }
        quoted = {name: encode(value).decode() for name, value in text.items()}
        self.write(
            self.conf,
            "# Written by `agentcom restore`; nobody but the admin's key gets in.\n"
            'server_name: agentcom-1\nlisten: "127.0.0.1:-1"\nhttp: "127.0.0.1:-1"\n'
            f"pid_file: {quoted['pid_file']}\nmax_payload: 1MB\n"
            f"jetstream: {{ store_dir: {quoted['store_dir']}\n"
            '  max_mem: 512MB, max_file: 1TB, sync_interval: "10s" }\n'
            "accounts: { CORE: { jetstream: enabled\n"
            f"  users: [ {{ nkey: {quoted['nkey']} }} ] }} }}\n",
        )


@contextmanager
def private_broker(data: Path) -> Iterator[Credentials]:
    """Run a broker of one's own on an instance's store; yields the admin's credentials.

    Raises FolderInUse while the instance's own broker runs.
    """
    instance = PrivateInstance(data)
    instance.write_conf()
    broker = Broker(instance)
    try:
        broker.start()
        admin = Credentials(instance.url, instance.keys / "admin.nk", "admin")
        if broker.unrecovered:
            asyncio.run(provision_with(admin, Retention()))
        yield admin
    finally:
        broker.stop(60)
        for path in (instance.conf, instance.log_file):
            with suppress(FileNotFoundError):
                path.unlink()
