"""The data folder of one AgentCom instance: where it is, what is in it, who may do what.

    DATA/                    0700
      keys/<role>.nk         nkey seeds, 0600: admin, scheduler, projections, submitter,
                             operator, watcher, host-<name>
      keys/host-<name>.pub   a host's public key; it stays when the seed has moved away
      nats.conf              the shipped accounts, copied here at each start
      local.conf, hosts.conf what nats.conf includes: addresses, keys, hosts
      site.conf              included too: the operator's own, TLS for one; made once
      cluster.json, nodes/   where the broker is several servers (cli/local/cluster.py)
      address.json           {"nats": "nats://127.0.0.1:4222"}
      jetstream/             the log
      nats-server.{pid,log}  the broker's

Keys are made on first use and kept. A key's role is its file's name without `.nk`, so
`--creds host-h1.nk` needs nothing beside it on another machine; the file itself holds
the bare seed, as the nats CLI's `--nkey` and every client library read it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict

import msgspec
import nkeys

from events import subjects
from events.errors import AgentComError, shown
from events.ids import is_token, token
from events.nats.link import Address, key_file, servers_of

if TYPE_CHECKING:
    from collections.abc import Iterable

ROLES: Final = (
    "admin",
    "scheduler",
    "projections",
    "submitter",
    "operator",
    "watcher",
)
LOOPBACK: Final = "127.0.0.1"
EVERY_ADDRESS: Final = "0.0.0.0"
EVERYWHERE: Final = ("", EVERY_ADDRESS, "[::]", "::")
"""Addresses to listen on that mean: each that this machine has."""
BROKER_PORT: Final = 4222
DEFAULT_LISTEN: Final = f"{LOOPBACK}:{BROKER_PORT}"
SHIPPED_CONF: Final = "nats.conf"

_HOST_PREFIX = "host-"
SITE_CONF = """\
# Yours: nats.conf includes this file last, and AgentCom never writes it again.
#
# TLS for other machines; full paths, and a certificate that names this machine's
# addresses, 127.0.0.1 among them. Then start the broker anew.
#
# tls: { cert_file: "/etc/agentcom/server.pem", key_file: "/etc/agentcom/server-key.pem" }
"""
# As we write it, and in every form that nats-server reads, for people edit the file.
_LISTEN = re.compile(r"""^[ \t]*LISTEN\b[ \t]*[:=]?[ \t]*["']?([^"'\s#;,]+)""", re.M)


class UnknownRole(AgentComError):
    """A credentials file's name is no role's: `admin.nk`, …, `host-NAME.nk`."""

    code = "unknown_role"

    def __init__(self, role: str) -> None:
        super().__init__(
            f"unknown role {shown(role)}: a credentials file is named after its role, "
            f"{', '.join(f'{name}.nk' for name in ROLES)} or host-NAME.nk"
        )


class NoCredentials(AgentComError):
    """There is no key where one was expected."""

    code = "no_credentials"

    def __init__(self, seed_path: Path, wrong: str = "") -> None:
        found = (
            f"{seed_path} holds no key ({wrong})" if wrong else f"no key at {seed_path}"
        )
        super().__init__(
            f"{found}: `agentcom keys` makes them, `agentcom host add NAME` a host's"
        )


class NoAddress(AgentComError):
    """The instance does not know where its broker listens: it was never started."""

    code = "no_address"

    def __init__(self, data: Path) -> None:
        super().__init__(
            f"{data} holds no broker's address: start one with `agentcom up` or "
            "`agentcom keys`, or name one with --nats"
        )


class ConnectOptions(TypedDict):
    """What `nats.connect(**options)` needs to be a role: address, key, inbox."""

    servers: list[str]
    nkeys_seed_str: str
    inbox_prefix: str
    name: str


class Credentials(msgspec.Struct, frozen=True):
    """Who connects where: the broker's URL, the seed's file, the role it is the key of."""

    url: str
    seed_path: Path
    role: str

    @property
    def host(self) -> str | None:
        """The host this is the key of, or None for any other role."""
        return host_of(self.role)

    @property
    def inbox_prefix(self) -> str:
        """Where answers arrive; the broker lets each role listen only to its own."""
        return f"_INBOX_{self.host or self.role}"

    def address(self) -> Address:
        """Return what `Link.connect` needs; raise NoCredentials."""
        _key_in(self.seed_path)
        return Address(
            url=self.url,
            seed=self.seed_path,
            inbox=self.inbox_prefix,
            name=f"agentcom-{self.role}",
        )

    def connect_options(self) -> ConnectOptions:
        """Return the keyword arguments for `nats.connect`; raise NoCredentials."""
        return {
            "servers": servers_of(self.url),
            "nkeys_seed_str": _key_in(self.seed_path)[0],
            "inbox_prefix": self.inbox_prefix,
            "name": f"agentcom-{self.role}",
        }


SEED_WORDS: Final = "expected a line that begins with SU and ends with its checksum"


def _key_in(path: Path) -> tuple[str, str]:
    """Return a key's seed and the servers its file names; raise NoCredentials."""
    if not path.is_file():
        raise NoCredentials(path)
    try:
        seed, servers = key_file(path)
        nkeys.from_seed(bytearray(seed.encode())).wipe()
    except (nkeys.NkeysError, ValueError) as error:
        raise NoCredentials(path, SEED_WORDS) from error
    return seed, servers


def explicit_credentials(url: str | None, seed_path: Path) -> Credentials:
    """Read `--nats URL --creds FILE`; the role is the file's name.

    Without a URL, the servers that the file names are meant, else this instance's.

    Raises NoCredentials where the file is missing, UnknownRole for another name.
    """
    if not seed_path.is_file():
        raise NoCredentials(seed_path)
    role = known_role(seed_path.stem)
    _, servers = _key_in(seed_path)
    return Credentials(url or servers or Instance().url, seed_path, role)


def is_loopback(host: str) -> bool:
    """Whether a name or an address, as it stands in a URL, is this machine's alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def known_role(role: str) -> str:
    """Return `role` if it is one; raise UnknownRole."""
    if role in ROLES or host_of(role) is not None:
        return role
    raise UnknownRole(role)


def host_of(role: str) -> str | None:
    """Return the host's name if `role` is `host-NAME`, else None."""
    name = role.removeprefix(_HOST_PREFIX)
    return name if name != role and is_token(name) else None


def local_host_name() -> str:
    """Name this machine: its host name up to the first dot, as a token."""
    name = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().split(".")[0])
    return name[:64].strip("-") or "local"


def data_folder(chosen: Path | None = None) -> Path:
    """Choose the data folder: `--data`, else AGENTCOM_DATA, else the user's own."""
    if chosen is None:
        if named := os.environ.get("AGENTCOM_DATA"):
            chosen = Path(named)
        else:
            import platformdirs

            chosen = platformdirs.user_data_path("agentcom")
    return chosen.expanduser().absolute()


class Instance:
    """One data folder. Making the object touches nothing; `prepare` makes the files."""

    def __init__(self, data: Path | None = None) -> None:
        self.data: Final = data_folder(data)

    @property
    def keys(self) -> Path:
        """The folder of the seeds."""
        return self.data / "keys"

    @property
    def store(self) -> Path:
        """JetStream's folder: the log."""
        return self.data / "jetstream"

    @property
    def conf(self) -> Path:
        """The broker's configuration."""
        return self.data / "nats.conf"

    @property
    def local_conf(self) -> Path:
        """Included by nats.conf: addresses and each role's public key."""
        return self.data / "local.conf"

    @property
    def hosts_conf(self) -> Path:
        """Included by nats.conf: the hosts and what each may say."""
        return self.data / "hosts.conf"

    @property
    def site_conf(self) -> Path:
        """Included by nats.conf: the operator's own additions. Never overwritten."""
        return self.data / "site.conf"

    @property
    def pid_file(self) -> Path:
        """Written by the broker, however it was started."""
        return self.data / "nats-server.pid"

    @property
    def log_file(self) -> Path:
        """What the broker prints, when AgentCom started it."""
        return self.data / "nats-server.log"

    @property
    def address_file(self) -> Path:
        """Where the broker is to be found."""
        return self.data / "address.json"

    @property
    def read_models(self) -> Path:
        """The file of the read models."""
        return self.data / "projections.db"

    @property
    def scheduler_checkpoint(self) -> Path:
        """The schedulers' state, to begin with; the log alone is needed."""
        return self.data / "scheduler.checkpoint"

    @property
    def dashboard_file(self) -> Path:
        """Where the dashboard is to be found, while it is served."""
        return self.data / "dashboard.json"

    @property
    def url(self) -> str:
        """The broker's URL; raises NoAddress where none was ever written."""
        try:
            return msgspec.json.decode(
                self.address_file.read_bytes(), type=_KeptAddress
            ).nats
        except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError) as missing:
            raise NoAddress(self.data) from missing

    def record_url(self, url: str) -> None:
        """Write down where the broker is to be found."""
        self.write(self.address_file, msgspec.json.encode(_KeptAddress(url)).decode())

    def prepare(
        self, listen: str | None = None, hosts: Iterable[str] | None = None
    ) -> None:
        """Make what is missing: folder, keys, configuration. Repeating it changes nothing.

        `listen` is HOST:PORT for the broker (port -1: any free one); None keeps what was
        chosen before, 127.0.0.1:4222 at first. `hosts` get a key each; None: this machine,
        if the instance has no host yet.
        """
        for folder in (self.data, self.keys, self.store):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # An existing folder keeps its mode, and keys/ is what matters.
        self.keys.chmod(0o700)
        for role in ROLES:
            self._make_key(role)
        if hosts is None:
            hosts = () if self.hosts() else (local_host_name(),)
        for name in hosts:
            self._make_host_key(name)
        chosen = listen or self.listen or DEFAULT_LISTEN
        self.write(self.local_conf, self.broker_conf(chosen, self.data))
        self._write_hosts()
        if not self.site_conf.exists():
            self.write(self.site_conf, SITE_CONF)
        self.write(self.conf, shipped_conf().read_text())
        # With port -1 only the running broker knows its address, and records it.
        if not chosen.endswith(":-1") and (
            listen is not None or not self.address_file.exists()
        ):
            self.record_url(f"nats://{_reachable(chosen)}")

    def broker_conf(self, listen: str, data: Path, more: str = "") -> str:
        """Return what nats.conf includes first: addresses, folders, the roles' keys.

        `data` is where the broker has its files, on the machine where it runs; `more`
        are further lines of its configuration.
        """
        # JSON strings: NATS reads the same quotes and escapes.
        lines = {
            "LISTEN": listen,
            "STORE": str(data / self.store.name),
            "PID_FILE": str(data / self.pid_file.name),
            **{f"{role.upper()}_NKEY": self._make_key(role) for role in ROLES},
        }
        return (
            "# Written by AgentCom, which keeps LISTEN alone (`agentcom keys --listen`);\n"
            "# whatever else you want the broker to know belongs into site.conf.\n"
            + "".join(
                f"{name}: {msgspec.json.encode(value).decode()}\n"
                for name, value in lines.items()
            )
            + more
        )

    @staticmethod
    def write(path: Path, text: str) -> None:
        """Replace a file in one step, readable by its owner alone."""
        scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        scratch.replace(path)

    @property
    def listen(self) -> str | None:
        """The HOST:PORT the broker was told to listen on, or None before `prepare`."""
        try:
            match = _LISTEN.search(self.local_conf.read_text())
        except FileNotFoundError:
            return None
        return match[1] if match else None

    def hosts(self) -> list[str]:
        """Return the names of the hosts that may connect."""
        return sorted(
            name
            for path in self.keys.glob(f"{_HOST_PREFIX}*.pub")
            if (name := host_of(path.stem)) is not None
        )

    def own_host(self, work: Path | None = None) -> str:
        """Name the host that this machine is: by the key it has worked under.

        A machine that is called otherwise than before is still that host: its journal,
        its work and what it has not delivered yet lie under that name, in `work` where its
        sidecar has a folder of its own. Of several the one whose journal was written last.
        Without any: the machine's own name.
        """
        here = local_host_name()
        worked: dict[str, float] = {}
        for name in self.hosts():
            journal = (work or self.data) / f"journal-{name}.db"
            if (self.keys / f"{_HOST_PREFIX}{name}.nk").exists() and journal.exists():
                worked[name] = journal.stat().st_mtime
        if here in worked or not worked:
            return here
        return max(worked, key=lambda name: worked[name])

    def has_worked(self, name: str) -> bool:
        """Whether this machine has been the host of this name: its journal is here."""
        return (self.data / f"journal-{name}.db").exists()

    def add_host(self, name: str) -> Credentials:
        """Let a host connect: its key and its entry in hosts.conf.

        A running broker must be reloaded to know it. A host that exists keeps its key;
        one whose seed has moved away (only its `.pub` is here) stays as it is. Raises
        BadToken for a name that may not be part of a subject.
        """
        self._make_host_key(token(name, "host"))
        self._write_hosts()
        return self.credentials(f"{_HOST_PREFIX}{name}")

    def remove_host(self, name: str) -> bool:
        """Forget a host; False if there was none. A running broker must be reloaded."""
        public = self.keys / f"{_HOST_PREFIX}{token(name, 'host')}.pub"
        existed = public.exists()
        public.unlink(missing_ok=True)
        public.with_suffix(".nk").unlink(missing_ok=True)
        self._write_hosts()
        return existed

    def credentials(self, role: str) -> Credentials:
        """Return a role's credentials (`operator`, `host-h1`); raise UnknownRole, NoAddress."""
        return Credentials(self.url, self.keys / f"{known_role(role)}.nk", role)

    def public_key(self, role: str) -> str:
        """Return the key that the broker knows a role by (`user` in Nats-Request-Info)."""
        name = known_role(role)
        if host_of(name) is not None:
            return (self.keys / f"{name}.pub").read_text().strip()
        return self._make_key(name)

    def role_of(self, public: str) -> str:
        """Return the role of a public key that this instance has made, else the key."""
        for role in ROLES:
            if (self.keys / f"{role}.nk").exists() and self._make_key(role) == public:
                return role
        return public

    def key_of(self, role: str) -> str:
        """Return a role's public key, "" where this instance has not made one."""
        exists = (self.keys / f"{role}.nk").exists()
        return self._make_key(role) if exists else ""

    def _make_host_key(self, name: str) -> None:
        role = f"{_HOST_PREFIX}{token(name, 'host')}"
        public = self.keys / f"{role}.pub"
        if not public.exists():
            self.write(public, self._make_key(role) + "\n")

    def _make_key(self, role: str) -> str:
        """Make the role's seed unless it has one; return the public key."""
        path = self.keys / f"{role}.nk"
        try:
            seed = path.read_bytes().strip()
        except FileNotFoundError:
            seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
            self.write(path, seed.decode() + "\n")
        try:
            public: bytes = nkeys.from_seed(bytearray(seed)).public_key
        except (nkeys.NkeysError, ValueError) as error:
            raise NoCredentials(path, SEED_WORDS) from error
        return public.decode()

    def _write_hosts(self) -> None:
        users = [
            _host_user(name, (self.keys / f"{_HOST_PREFIX}{name}.pub").read_text())
            for name in self.hosts()
        ]
        self.write(
            self.hosts_conf,
            "# Written by `agentcom host add` and `host remove` from keys/host-*.pub.\n"
            "users: [\n" + "".join(users) + "]\n",
        )


class _KeptAddress(msgspec.Struct):
    nats: str


def shipped_conf() -> Path:
    """Return the nats.conf that came with AgentCom; it lies beside the packages."""
    return Path(__file__).parents[2] / SHIPPED_CONF


def _reachable(listen: str) -> str:
    """Turn an address to listen on into one to connect to, on this machine."""
    host, _, port = listen.rpartition(":")
    return f"{LOOPBACK}:{port}" if host in EVERYWHERE else listen


def _host_user(name: str, public: str) -> str:
    reports = f'"{subjects.runs_on(name)}", "{subjects.host(name)}"'
    signs = f'"{subjects.outputs_on(name)}", "{subjects.beat(name)}"'
    children = ", ".join(f'"{each}"' for each in subjects.children_of(name))
    files = f'"$JS.API.DIRECT.GET.{subjects.FILES_STREAM}"'
    mail = f'"{subjects.host_mailbox(name)}", "{subjects.task_mailboxes(name)}"'
    return f"""  {{ nkey: "{public.strip()}"
    permissions: {{
      publish: {{ allow: [
        {reports},
        {signs}, {files},
        {children}
      ] }}
      subscribe: {{ allow: [
        {mail}, "_INBOX_{name}.>"
      ] }}
      allow_responses: {{ max: 1, expires: "1m" }}
    }} }}
"""
