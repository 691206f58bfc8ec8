"""What a DSN of the settings says, by libpq's own rules, passed on whole to each library that connects in another way.

libpq takes a parameter from the DSN, else from the section that `service` names of a service file, else from the `PG…` variables of the
process. What a library cannot be given is an error that names setting, parameter and library; nothing is dropped.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from urllib.parse import quote

from pydantic import SecretStr

from pipeline_assets.core.errors import SettingNotSupported, SettingsMalformed
from pipeline_assets.core.problems import MalformedSetting
from pipeline_assets.core.setting_values import A_DSN, dsn_problem
from pipeline_assets.core.settings import in_environment

POSTGRES_PORT = "5432"
# Where libpq finds the password if the DSN has none; a password that is given elsewhere needs no such file.
OF_THE_PASSWORD = frozenset({"password", "passfile"})
OF_THE_PLACE = frozenset({"host", "port", "dbname", "user"}) | OF_THE_PASSWORD
# Parameters of libpq that PostgreSQL's JDBC driver has under another name or not for all values (None: each value means the same).
JDBC: Mapping[str, tuple[str, Mapping[str, str] | None]] = {
    "sslmode": ("sslmode", None),
    "sslrootcert": ("sslrootcert", None),
    "sslcert": ("sslcert", None),
    "sslkey": ("sslkey", None),
    "sslnegotiation": ("sslNegotiation", None),
    "gssencmode": ("gssEncMode", None),
    "channel_binding": ("channelBinding", None),
    "require_auth": ("requireAuth", None),
    "options": ("options", None),
    "connect_timeout": ("connectTimeout", None),
    "application_name": ("ApplicationName", None),
    "keepalives": ("tcpKeepAlive", {"1": "true", "0": "false"}),
    "target_session_attrs": (
        "targetServerType",
        {"read-write": "primary", "primary": "primary", "standby": "secondary", "prefer-standby": "preferSecondary"},
    ),
}
# Of connections that stay open: a balancer or a host that is gone drops them without a word.
ALIVE = {
    "connect_timeout": "10", "keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3", "tcp_user_timeout": "30000",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Address:
    """What libpq would connect with for the DSN of `setting`; the parameters, which have the password, are not shown."""

    setting: str
    parameters: Mapping[str, str] = field(repr=False)

    @property
    def hosts(self) -> list[tuple[str, str]]:
        """The servers in the order in which they are tried, each with its port; a host is a name, an address or the folder of a socket."""
        hosts = (self.parameters.get("host") or self.parameters.get("hostaddr") or "").split(",")
        ports = self.parameters.get("port", "").split(",")
        ports = ports * len(hosts) if len(ports) == 1 else ports
        return [(host, port or POSTGRES_PORT) for host, port in zip(hosts, ports, strict=True)]

    @property
    def user(self) -> str:
        """The role."""
        return self.parameters["user"]

    @property
    def database(self) -> str:
        """The database; libpq takes that of the role's name where there is none."""
        return self.parameters.get("dbname", self.user)

    def others(self) -> dict[str, str]:
        """The parameters that say more than where the database is and who connects, without those that are at libpq's default."""
        defaults = _defaults()
        return {name: value for name, value in self.parameters.items() if name not in OF_THE_PLACE and value != defaults.get(name)}

    def refused(self, parameter: str, library: str, remedy: str) -> SettingNotSupported:
        """The error that a library cannot be given a parameter."""
        return SettingNotSupported(self.setting, parameter, library, remedy)


def read_address(setting: str, dsn: str | SecretStr) -> Address:
    """What a DSN, its service and the environment say together; raises SettingsMalformed."""
    given = given_parameters(setting, dsn)
    service = given.pop("service", None)
    with in_environment({"PGSERVICE": service}) if service is not None else nullcontext():
        found = _said_outside()
    # libpq's function for this passes over a service that is nowhere; its connections are refused.
    if service is not None and found == _said_outside():
        problem = MalformedSetting(setting, f"names the service '{service}', which no service file has", "a section of that name", None)
        raise SettingsMalformed([problem])
    return Address(setting=setting, parameters={**found, **given})


def given_parameters(setting: str, dsn: str | SecretStr) -> dict[str, str]:
    """What a DSN itself says; raises SettingsMalformed, which does not show it: libpq's own message may have a part of the password."""
    from psycopg.conninfo import conninfo_to_dict

    text = dsn.get_secret_value() if isinstance(dsn, SecretStr) else dsn
    problem = dsn_problem(text)
    if problem is not None:
        raise SettingsMalformed([MalformedSetting(setting, problem, A_DSN, None)])
    return {name: str(value) for name, value in conninfo_to_dict(text).items()}


def with_time_zone(setting: str, dsn: SecretStr) -> str:
    """The DSN with sessions in UTC, beside the options that it has."""
    from psycopg.conninfo import make_conninfo

    options = read_address(setting, dsn).parameters.get("options", "")
    return make_conninfo(dsn.get_secret_value(), options=f"{options} -c timezone=UTC".strip())


def limited(dsn: str, seconds: int) -> str:
    """The DSN with a limit, in seconds, to how long connecting takes, a statement, and a server of which nothing comes back."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    options = f"{conninfo_to_dict(dsn).get('options', '')} -c statement_timeout={seconds}s".strip()
    return make_conninfo(dsn, options=options, connect_timeout=seconds, tcp_user_timeout=1000 * seconds)


def with_settings(options: str, settings: Mapping[str, str]) -> str:
    """Options of libpq with settings of a session, but for those that the options have."""
    return " ".join([*(f"-c {name}={value}" for name, value in settings.items() if name not in options), options]).strip()


def sqlalchemy_url(setting: str, dsn: str | SecretStr, driver: str, settings: Mapping[str, str] = MappingProxyType({})) -> str:
    """The DSN as a URL of SQLAlchemy, for a driver that uses libpq; `settings` are those of its sessions."""
    from sqlalchemy import URL

    address = read_address(setting, dsn)
    if settings:
        options = with_settings(address.parameters.get("options", ""), settings)
        address = replace(address, parameters={**address.parameters, "options": options})
    rest = {name: value for name, value in address.parameters.items() if name not in OF_THE_PLACE - {"passfile"}}
    (host, port), *more = address.hosts
    is_one = not more and host[:1] not in {"", "/", "@"}
    if not is_one:
        rest |= {"host": ",".join(host for host, _ in address.hosts), "port": ",".join(port for _, port in address.hosts)}
    url = URL.create(
        f"postgresql+{driver}",
        username=address.user,
        password=address.parameters.get("password"),
        host=host if is_one else None,
        port=int(port) if is_one else None,
        database=address.database,
        query=rest,
    )
    return url.render_as_string(hide_password=False)


def kept_alive(url: str) -> str:
    """A URL of SQLAlchemy whose connections may be kept: one of which nothing comes back any more ends within a minute.

    What the URL says itself stays.
    """
    from sqlalchemy import make_url

    made = make_url(url)
    missing = {name: value for name, value in ALIVE.items() if name not in made.query}
    return made.update_query_dict(missing).render_as_string(hide_password=False)


def jdbc_url(address: Address, library: str) -> str:
    """Where the database is, for PostgreSQL's JDBC driver: all hosts, and the database."""
    hosts = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in _networked(address, library)]
    return f"jdbc:postgresql://{','.join(hosts)}/{quote(address.database, safe='')}"


def jdbc_host(address: Address, library: str) -> tuple[str, str]:
    """Host and port for a library that takes one of each."""
    (host, port), *more = _networked(address, library)
    if more:
        raise address.refused("host", library, "It takes one server: name the primary, or a name that always leads to it.")
    if ":" in host:
        raise address.refused("host", library, "It takes no IPv6 address: give a host name that leads to it.")
    return host, port


def password_lines(address: Address, library: str) -> list[str]:
    """The lines of a file of passwords (PGPASSFILE) that let a library of the JDBC driver log in; none where the DSN has no password.

    The password is one of the role at the server: it is given for each of its databases. The driver looks several hosts up by all their
    names at once. Raises SettingNotSupported where the DSN itself names such a file.
    """
    password = address.parameters.get("password", "")
    if "passfile" in address.parameters and not password:
        raise address.refused("passfile", library, "Write the password into the DSN: it is kept in a file that only its owner reads.")
    hosts, ports = (",".join(part) for part in zip(*address.hosts, strict=True))
    fields = (hosts, ports, address.user, password)
    host, port, user, secret = (field.replace("\\", "\\\\").replace(":", "\\:") for field in fields)
    return [f"{host}:{port}:*:{user}:{secret}"] if password else []


def _networked(address: Address, library: str) -> list[tuple[str, str]]:
    if "hostaddr" in address.parameters and "host" in address.parameters:
        raise address.refused("hostaddr", library, "Leave it out: it looks up the host by itself.")
    if any(host[:1] in {"", "/", "@"} for host, _ in address.hosts):
        raise address.refused("host", library, "It connects by TCP only: name a host and a port, not the folder of a socket.")
    return address.hosts


def jdbc_properties(address: Address, library: str) -> dict[str, str]:
    """What else the DSN says, as properties of PostgreSQL's JDBC driver. Files are those of the machine on which the library runs."""
    others = {name: value for name, value in address.others().items() if name != "hostaddr"}
    if "sslrootcert" in others:
        others["sslmode"] = _verifying_mode(address, library)
    return dict(_jdbc_property(address, library, name, value) for name, value in others.items())


def _verifying_mode(address: Address, library: str) -> str:
    """The mode that verifies as much as libpq does with a root certificate; the JDBC driver verifies nothing below `verify-ca`."""
    mode, root = address.parameters.get("sslmode", "prefer"), address.parameters["sslrootcert"]
    if root == "system":
        raise address.refused("sslrootcert=system", library, "Name a file with the certificates of the authorities that are trusted.")
    if mode in {"allow", "prefer"}:
        raise address.refused(f"sslrootcert with sslmode={mode}", library, "Write sslmode=verify-full, which never falls back.")
    return "verify-ca" if mode == "require" else mode


def _jdbc_property(address: Address, library: str, name: str, value: str) -> tuple[str, str]:
    property_name, values = JDBC.get(name, (name, {}))
    if values is not None and value not in values:
        raise address.refused(name, library, "Leave it out of this DSN, or set it at the server for this role.")
    return property_name, value if values is None else values[value]


def libpq_environment(address: Address, taken: frozenset[str], library: str) -> dict[str, str]:
    """The parameters that are not `taken` as variables that libpq reads, for a library that uses it but takes few parameters itself."""
    from psycopg.pq import Conninfo

    variables = {each.keyword.decode(): each.envvar.decode() for each in Conninfo.get_defaults() if each.envvar is not None}
    rest = {name: value for name, value in address.others().items() if name not in taken}
    if "passfile" in address.parameters:
        rest["passfile"] = address.parameters["passfile"]
    for name in rest.keys() - variables.keys():
        raise address.refused(name, library, "Leave it out of this DSN: libpq reads it from no environment variable.")
    return {variables[name]: value for name, value in rest.items()}


def _defaults() -> dict[str, str]:
    from psycopg.pq import Conninfo

    return {each.keyword.decode(): each.compiled.decode() for each in Conninfo.get_defaults() if each.compiled is not None}


def _said_outside() -> dict[str, str]:
    """What service and environment of this process say, where it is not libpq's default."""
    from psycopg.pq import Conninfo

    found = {each.keyword.decode(): each.val.decode() for each in Conninfo.get_defaults() if each.val is not None}
    defaults = _defaults()
    return {name: value for name, value in found.items() if value != defaults.get(name) and name != "service"}
