"""All settings of Fiscus: the only reader of the environment and of ``fiscus.toml``.

What comes first wins: an option of the command line, ``FISCUS_<NAME>`` in the environment, one of the fixed names of
the token economy service (``FIXED_NAMES``), the file ``fiscus.toml``, the default.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from fiscus.contract.errors import ConfigurationInvalid

PREFIX = "FISCUS_"
FILE_NAME_DEFAULT = "fiscus.toml"
FILE_VARIABLE = "FISCUS_CONFIG"

_PASSWORD = re.compile(r"(://[^/@:]*:)[^/@]*@")

FIXED_NAMES = {
    "economy_budget_tokens": "GLOBAL_TOKEN_BUDGET",
    "store_url": "DATABASE_URL",
    "redis_url": "REDIS_URL",
    "port": "TOKEN_ECONOMY_PORT",
    "otel_endpoint": "OTEL_EXPORTER_OTLP_ENDPOINT",
    "otel_service_name": "OTEL_SERVICE_NAME",
}
"""Setting → the name by which deployments of the token economy service (D53) or of others already set it."""


def _split(value: Any) -> Any:
    """Read ``a, b`` as two items, as lists are written in the environment."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """Every setting with its default, range and meaning. ``load_settings`` makes one."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    # How a command reaches a ledger
    url: str | None = Field(None, description="Address of a running service; commands then speak HTTP to it.")
    store_url: str = Field(
        "sqlite:///fiscus.db",
        min_length=1,
        description=(
            "The ledger: sqlite:///relative.db, sqlite:////absolute.db, postgresql://user:password@host/database, "
            "or memory: (it ends with the process)."
        ),
    )
    api_key: SecretStr | None = Field(None, description="Key that commands and clients send to a service.")
    tenant: str = Field("default", min_length=1, max_length=128, description="Tenant that commands act on.")

    # Where the service listens, and for whom
    host: str = Field(
        "127.0.0.1", min_length=1, description="Address to listen on. One that is not loopback needs at least one key."
    )
    port: int = Field(8091, ge=0, le=65_535, description="TCP port to listen on; 0 takes a free one.")
    tls_certificate_path: Path | None = Field(None, description="PEM file with the certificate chain; turns TLS on.")
    tls_key_path: Path | None = Field(None, description="PEM file with the certificate's private key.")
    trusted_proxies: Texts = Field(
        (),
        description="Addresses of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed; none by default.",
    )
    allowed_hosts: Texts = Field(
        (), description="Names accepted in the Host header besides loopback ones while the service runs without keys."
    )

    # Keys
    bootstrap_key: SecretStr | None = Field(
        None,
        min_length=16,
        description="Secret of the first administrator's key, stored (hashed) "
        "at the first start. Once that key was rotated or revoked, or another was stored, it has no effect.",
    )
    key_pepper: SecretStr | None = Field(
        None,
        min_length=16,
        description="Secret that keys are hashed with. Made at the first start and kept: beside the ledger, mode 0600, "
        "or in the database that nodes share.",
    )
    key_requests_per_minute: int | None = Field(
        None, ge=1, le=100_000_000, description="Requests that one key may make in a minute; no bound unless set."
    )

    # The gateway
    gateway_path: Path | None = Field(
        None,
        description="TOML file that names the providers behind the gateway, and its rules (docs/guides/gateway.md); "
        "there is no gateway unless set.",
    )

    # Alerts
    alerts_path: Path | None = Field(
        None,
        description="TOML file that names the channels of alerts and what each hears (docs/guides/alerts.md); nothing "
        "is told outside unless set.",
    )

    # Bounds of a request
    body_bytes_max: int = Field(
        1_048_576, ge=1_024, le=268_435_456, description="Longest body of a request that is read, in bytes."
    )
    batch_bytes_max: int = Field(
        8_388_608, ge=1_024, le=268_435_456, description="Longest body of POST /v1/batch that is read, in bytes."
    )
    request_s_max: int = Field(
        30, ge=1, le=3_600, description="Longest that one request may take, event streams excepted, in seconds."
    )
    requests_in_flight_max: int = Field(
        4_096, ge=1, le=1_000_000, description="Requests that are worked on at once; the next one is answered 503."
    )
    streams_max: int = Field(
        1_000, ge=1, le=100_000, description="Event streams that may be open at once; the next one is answered 429."
    )
    heartbeat_s: int = Field(15, ge=1, le=3_600, description="Longest silence of an event stream, in seconds.")
    keep_alive_s: int = Field(75, ge=1, le=3_600, description="How long an idle connection stays open, in seconds.")
    drain_s_max: int = Field(
        20,
        ge=1,
        le=600,
        description="How long the service may take to stop: answer calls in flight, close the ledger; in seconds.",
    )

    # While the ledger is away
    spool_path: Path | None = Field(
        None,
        description="Directory where settlements and usage wait while the ledger is away. The default is NAME.spool "
        "beside a SQLite ledger NAME, else fiscus.spool in the working directory.",
    )
    spool_bytes_max: int = Field(
        67_108_864,
        ge=1_024,
        le=1_099_511_627_776,
        description="How much may wait there, in bytes; the next settlement is answered 503.",
    )

    # The engine
    queue_length_max: int = Field(
        10_000, ge=1, le=1_000_000, description="Commands that may wait for the ledger; the next one is answered 503."
    )
    quarantine_s: int = Field(
        86_400, ge=1, le=31_536_000, description="How long an expired hold waits for its settlement, in seconds."
    )
    quarantine_policy: Literal["charge", "release"] = Field(
        "charge", description="What becomes of an expired hold after quarantine_s: charged in full, or given back."
    )
    wait_ageing_s: int = Field(
        30,
        ge=1,
        le=86_400,
        description="A reserve that has waited so much longer comes before a priority that is one higher, in seconds.",
    )
    waiting_max: int = Field(
        1_000, ge=0, le=100_000, description="Reserves that may wait in a tenant; the next one is refused at once."
    )
    waiting_per_budget_max: int = Field(
        100, ge=0, le=10_000, description="Reserves that may wait for one budget; the next one is refused at once."
    )
    checkpoint_interval_s: int = Field(
        86_400,
        ge=0,
        le=31_536_000,
        description="How often a running service seals its state, from which verify can start, in seconds; 0: never.",
    )
    drift_check_interval_s: int = Field(
        300,
        ge=0,
        le=31_536_000,
        description="How often a sample of cells is compared with a fresh fold of the journal, in seconds; 0: never.",
    )

    # Retention
    retention_days: int = Field(
        90,
        ge=0,
        le=36_500,
        description="How long entries of the journal and usage are kept, in days; older ones are archived as soon as a "
        "checkpoint has sealed them; 0: for ever.",
    )
    archive_path: Path | None = Field(
        None,
        description="Directory that they are archived to. The default is NAME.archive beside a SQLite ledger NAME, "
        "else fiscus.archive in the working directory.",
    )
    archive_interval_s: int = Field(
        3_600, ge=1, le=31_536_000, description="How often a running service looks for what to archive, in seconds."
    )
    retention_keeps_usage: bool = Field(
        False, description="Whether usage stays in its table when its entries are archived."
    )

    # The token economy API
    economy_budget_tokens: int = Field(
        100_000,
        ge=0,
        le=2**53 - 1,
        description="Limit of the pool (account global), made at the first call of that API, in tokens; "
        "made at the start when this is set.",
    )
    economy_strategy: Literal["classic", "proven"] = Field(
        "classic",
        description="How an agent's history counts when its grants are sized: as in the token economy service, or so "
        "that an unknown name never gets more than a proven one.",
    )
    economy_reserve_percent: int = Field(
        0,
        ge=0,
        le=90,
        description="Part of the pool that only grants from the emergency reserve may use, in percent.",
    )
    economy_anonymous_account: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="Account that calls of the token economy API without a key are bound to; off unless set.",
    )

    # Live state for other programs
    redis_url: str | None = Field(
        None,
        description="Redis or Valkey that live balances and events are copied to, redis://host:6379/0 (rediss:// with "
        "TLS, unix:// for a socket); it decides nothing.",
    )
    redis_timeout_ms: int = Field(
        1_000, ge=10, le=60_000, description="Longest wait for a connection to it or an answer of it, in milliseconds."
    )
    redis_stream_length_max: int = Field(
        10_000, ge=1, le=10_000_000, description="Entries of the journal that its stream of events keeps."
    )

    # What is told to operators
    metrics_open: bool = Field(False, description="Whether /metrics is answered without a key.")
    access_log: bool = Field(
        False, description="Whether each request is logged, with its route and without its contents and names."
    )
    otel_endpoint: str | None = Field(
        None,
        pattern="^https?://",
        description="OpenTelemetry collector that spans are sent to with OTLP over HTTP, http://host:4318; off unless "
        "set. The other standard OTEL_ variables hold too.",
    )
    otel_service_name: str = Field("fiscus", min_length=1, max_length=128, description="Name of the service in spans.")
    otel_names: bool = Field(False, description="Whether spans name accounts, which may be people.")
    metric_labels_max: int = Field(
        1_000, ge=1, le=100_000, description="Different values of one metric label; the rest is counted as other."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is logged."
    )
    log_format: Literal["text", "json"] = Field("text", description="Lines for people, or one JSON object a line.")

    @model_validator(mode="after")
    def _both_halves_of_tls(self) -> Settings:
        """Refuse a certificate without its key, and the other way round."""
        if (self.tls_certificate_path is None) != (self.tls_key_path is None):
            raise ValueError("tls_certificate_path and tls_key_path belong together: set both or none")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Options, environment, fixed names, file; no ``.env`` and no secrets folder."""
        return init_settings, env_settings, _FixedNames(settings_cls), _file_source(settings_cls)


class _FixedNames(PydanticBaseSettingsSource):
    """The names of D53 as a source of settings."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Look one setting up."""
        name = FIXED_NAMES.get(field_name)
        return (os.environ.get(name) or None) if name else None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Look all of them up."""
        found = {name: os.environ.get(fixed) for name, fixed in FIXED_NAMES.items()}
        return {name: value for name, value in found.items() if value}


class SettingView(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as ``fiscus settings`` lists it.

    Attributes:
        value: as text; ``********`` for a secret that is set, None when there is none.
        source: ``option``, ``environment NAME``, the path of the file, or ``default``.
        range: ``1 … 600``, ``charge, release``, or empty.
    """

    name: str
    value: Any
    default: Any
    range: str
    source: str
    environment: str
    description: str


def load_settings(**options: Any) -> Settings:
    """Read all sources; ``options`` win, and those that are None count as not given.

    Raises:
        ConfigurationInvalid: a value is wrong, or the file is missing, unreadable or has an unknown name in it.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigurationInvalid(_faults(error, given)) from error


def secret_of(variable: str) -> str:
    """A secret that a file names by its variable in the environment, instead of having it.

    Raises:
        ConfigurationInvalid: there is no such variable, or it is empty.
    """
    value = os.environ.get(variable, "")
    if not value:
        raise ConfigurationInvalid(f"{variable}: is not set in the environment")
    return value


def content_of(path: Path, name: str) -> bytes:
    """What stands in a file that a setting or an argument names.

    Args:
        path: of the file.
        name: of the setting or argument, for the error.

    Raises:
        ConfigurationInvalid: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationInvalid(f"{name}: {path}: {error.strerror or error}") from None


def list_settings(settings: Settings, **options: Any) -> list[SettingView]:
    """All settings in the order of their definition, each with where its value comes from, secrets masked."""
    given = {name: value for name, value in options.items() if value is not None}
    written = _file_source(Settings)()
    return [
        SettingView(
            name=name,
            value=_shown(getattr(settings, name)),
            default=_shown(field.default),
            range=_range(field),
            source=_origin(name, given, written),
            environment=f"{PREFIX}{name.upper()}",
            description=field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def file_path() -> Path:
    """The settings file: what ``FISCUS_CONFIG`` names, or ``fiscus.toml`` in the working directory."""
    return Path(os.environ.get(FILE_VARIABLE) or FILE_NAME_DEFAULT)


def _file_source(settings_cls: type[BaseSettings]) -> TomlConfigSettingsSource:
    """Read ``fiscus.toml``. One that is named must exist; the default one may be missing."""
    path = file_path()
    if os.environ.get(FILE_VARIABLE) and not path.is_file():
        raise ConfigurationInvalid(f"{path}: no such file ({FILE_VARIABLE} names it)")
    try:
        return TomlConfigSettingsSource(settings_cls, path)
    except (OSError, ValueError) as error:
        raise ConfigurationInvalid(f"{path}: {error}") from error


def _faults(error: ValidationError, given: dict[str, Any]) -> str:
    """One sentence per wrong setting, with the place to correct it; never the value, which may be secret."""
    try:
        written = _file_source(Settings)()
    except ConfigurationInvalid:
        written = {}
    sentences = []
    for fault in error.errors(include_input=False, include_url=False, include_context=False):
        name = str(fault["loc"][0]) if fault["loc"] else ""
        if not name:
            sentences.append(fault["msg"].removeprefix("Value error, "))
        elif name not in Settings.model_fields:
            sentences.append(f"{file_path()}: unknown setting {name}")
        else:
            sentences.append(f"{name} ({_origin(name, given, written)}): {fault['msg']}")
    return "; ".join(sentences)


def _origin(name: str, given: dict[str, Any], written: dict[str, Any]) -> str:
    """Where the value of a setting comes from, in the order of precedence."""
    if name in given:
        return "option"
    prefixed = f"{PREFIX}{name}".upper()
    for variable, value in os.environ.items():
        if value and variable.upper() == prefixed:
            return f"environment {variable}"
    fixed = FIXED_NAMES.get(name)
    if fixed and os.environ.get(fixed):
        return f"environment {fixed}"
    return str(file_path()) if name in written else "default"


def _shown(value: Any) -> Any:
    """A value as it may be printed."""
    if isinstance(value, SecretStr):
        return "********"
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str):
        return _PASSWORD.sub(r"\1********@", value)
    return list(value) if isinstance(value, tuple) else value


def _range(field: FieldInfo) -> str:
    """The bounds of a number or the choices of a word, as text."""
    if getattr(field.annotation, "__origin__", None) is Literal:
        return ", ".join(field.annotation.__args__)  # type: ignore[union-attr]  # a Literal has arguments
    bounds = {key: getattr(bound, key) for bound in field.metadata for key in ("ge", "le") if hasattr(bound, key)}
    return f"{bounds['ge']:,} … {bounds['le']:,}" if {"ge", "le"} <= bounds.keys() else ""
