"""The file of the alerts: channels, what each wants to hear, and the figures of the rules."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from fiscus.alerts.catalogue import names_of
from fiscus.alerts.rules import Rules
from fiscus.contract.errors import ConfigurationInvalid
from fiscus.core.commands import Severity

CHANNELS_MAX = 50
SECRETS_MAX = 5
SECRET_PREFIX = "whsec_"  # noqa: S105  (what a secret begins with)
SECRET_BYTES = range(24, 65)
LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))

Names = Literal["fiscus", "signal", "token"]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=300)]


class Channel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where alerts go, and which.

    Attributes:
        name: for logs, metrics, and ids of deliveries.
        kind: ``webhook``: a signed request of our own; ``apprise``: e-mail, Slack and whatever else Apprise speaks.
        url: where to; ``url_variable``: the variable of the environment that has it.
        secrets: of a web hook, ``whsec_`` and 24 … 64 bytes in base64; each signs, the first is the new one.
            ``secret_variables``: variables that have them.
        accounts: patterns of names; an alert on an account or one above which matches is sent. None given: all.
        kinds: names or aliases of alerts. None given: all.
        severity: the least that is sent.
        names: what ``type`` in a web hook says: our names, or one of the originals' where there is one.
        allow_http: an address that is neither https nor on this machine.
        send_s_max: how long one attempt may take, in seconds.
        give_up_after_s: how long an alert is tried before it is dead, in seconds.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    kind: Literal["webhook", "apprise"]
    url: str = ""
    url_variable: str = ""
    secrets: tuple[str, ...] = ()
    secret_variables: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    severity: Severity = "warning"
    names: Names = "fiscus"
    allow_http: bool = False
    send_s_max: Seconds = 10
    give_up_after_s: Annotated[int, msgspec.Meta(ge=60, le=2_592_000)] = 259_200

    @property
    def keys(self) -> tuple[bytes, ...]:
        """What a web hook is signed with."""
        return tuple(_key(secret) for secret in self.secrets)


class AlertOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file.

    Attributes:
        channels: all that are declared.
        alert_channels: names of those that are in use (R22); None: all.
        rules: figures of what is derived.
        kept_s: how long what was sent is shown, in seconds. ``dead_kept_s``: what was given up.
    """

    channels: tuple[Channel, ...] = ()
    alert_channels: tuple[str, ...] | None = None
    rules: Rules = Rules()
    kept_s: Annotated[int, msgspec.Meta(ge=0, le=31_536_000)] = 604_800
    dead_kept_s: Annotated[int, msgspec.Meta(ge=3_600, le=31_536_000)] = 2_592_000

    @property
    def active(self) -> tuple[Channel, ...]:
        """The channels that are in use."""
        used = self.alert_channels
        return tuple(channel for channel in self.channels if used is None or channel.name in used)


def read_options(text: bytes, where: str, secret_of: Callable[[str], str]) -> AlertOptions:
    """The file of the alerts (TOML). Nothing that is said about a fault shows an address or a secret.

    Args:
        text: what stands in it.
        where: its name, for errors.
        secret_of: the value of a variable of the environment.

    Raises:
        ConfigurationInvalid: it cannot be read, or says something that makes no sense; names the field.

    >>> read_options(b'''
    ... [[channels]]
    ... name = "email"
    ... kind = "apprise"
    ... url = "mailto://127.0.0.1"
    ... ''', "alerts.toml", str).channels[0].severity
    'warning'
    """
    try:
        options = msgspec.convert(_with_defaults(msgspec.toml.decode(text)), AlertOptions)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationInvalid(f"{where}: {error}") from None
    if len(options.channels) > CHANNELS_MAX:
        raise ConfigurationInvalid(f"{where}: channels: at most {CHANNELS_MAX}")
    names: set[str] = set()
    channels: list[Channel] = []
    for index, channel in enumerate(options.channels):
        at = f"{where}: channels[{index}]"
        if channel.name in names:
            raise ConfigurationInvalid(f"{at}.name: {channel.name!r} is there twice")
        names.add(channel.name)
        channels.append(_checked(channel, at, secret_of))
    for name in options.alert_channels or ():
        if name not in names:
            raise ConfigurationInvalid(f"{where}: alert_channels: there is no channel {name!r}")
    return msgspec.structs.replace(options, channels=tuple(channels))


def _with_defaults(file: dict[str, Any]) -> dict[str, Any]:
    """A file whose rules have all their figures: what it leaves out is as that rule has it."""
    rules = file.get("rules")
    if isinstance(rules, dict):
        figures = msgspec.to_builtins(Rules())
        for name, rule in rules.items():
            if isinstance(rule, dict):
                rules[name] = {**figures.get(name, {}), **rule}
    return file


def _checked(channel: Channel, at: str, secret_of: Callable[[str], str]) -> Channel:
    """A channel with its address and secrets filled in."""
    if bool(channel.url) == bool(channel.url_variable):
        raise ConfigurationInvalid(f"{at}: needs either url or url_variable")
    for kind in channel.kinds:
        if not names_of(kind):
            raise ConfigurationInvalid(f"{at}.kinds: there is no alert {kind!r}; docs/reference/events.md lists them")
    secrets = (*channel.secrets, *(secret_of(variable) for variable in channel.secret_variables))
    url = channel.url or secret_of(channel.url_variable)
    filled = msgspec.structs.replace(channel, url=url, secrets=secrets, url_variable="", secret_variables=())
    if channel.kind == "webhook":
        _check_web_hook(filled, at)
    elif secrets:
        raise ConfigurationInvalid(f"{at}.secrets: only a webhook is signed")
    return filled


def _check_web_hook(channel: Channel, at: str) -> None:
    try:
        address = urlsplit(channel.url)
        host = address.hostname
        _ = address.port
    except ValueError:
        raise ConfigurationInvalid(f"{at}.url: cannot be read as an address") from None
    if address.scheme not in ("http", "https") or not host:
        raise ConfigurationInvalid(f"{at}.url: must be an https address")
    if address.scheme == "http" and host not in LOOPBACK and not channel.allow_http:
        raise ConfigurationInvalid(f"{at}.url: must be https, or on this machine, unless allow_http = true")
    if address.username or address.password:
        raise ConfigurationInvalid(f"{at}.url: must not carry a password; the signature says who sends")
    if not 1 <= len(channel.secrets) <= SECRETS_MAX:
        raise ConfigurationInvalid(f"{at}.secrets: a webhook is signed: give 1 … {SECRETS_MAX} secrets")
    for index, secret in enumerate(channel.secrets):
        try:
            _key(secret)
        except ValueError:
            raise ConfigurationInvalid(f"{at}.secrets[{index}]: must be whsec_ and 24 … 64 bytes in base64") from None


def _key(secret: str) -> bytes:
    """The bytes of a secret.

    Raises:
        ValueError: it is none.
    """
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError from error
    if len(key) not in SECRET_BYTES:
        raise ValueError
    return key
