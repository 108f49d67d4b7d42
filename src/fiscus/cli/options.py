"""From settings to what the parts of a service are told."""

from __future__ import annotations

from pydantic import SecretStr

from fiscus.alerts.options import AlertOptions
from fiscus.api import ApiOptions
from fiscus.app import LedgerOptions, RedisOptions, ServiceOptions, TracingOptions
from fiscus.core.state import Rules
from fiscus.gateway.options import GatewayOptions
from fiscus.settings import Settings


def ledger_options(settings: Settings) -> LedgerOptions:
    """Which ledger is opened, and how it is kept."""
    return LedgerOptions(
        store_url=settings.store_url,
        tenant=settings.tenant,
        rules=Rules(
            quarantine_ms=settings.quarantine_s * 1_000,
            quarantine=settings.quarantine_policy,
            wait_ageing_ms=settings.wait_ageing_s * 1_000,
            waiting_max=settings.waiting_max,
            waiting_per_budget_max=settings.waiting_per_budget_max,
        ),
        queue_length_max=settings.queue_length_max,
        key_pepper=_text(settings.key_pepper),
        retention_days=settings.retention_days,
        archive_path=settings.archive_path,
        retention_keeps_usage=settings.retention_keeps_usage,
    )


def service_options(settings: Settings) -> ServiceOptions:
    """What a service is told when it starts."""
    return ServiceOptions(
        ledger=ledger_options(settings),
        host=settings.host,
        port=settings.port,
        tls_certificate_path=settings.tls_certificate_path,
        tls_key_path=settings.tls_key_path,
        bootstrap_key=_text(settings.bootstrap_key),
        keep_alive_s=settings.keep_alive_s,
        drain_s_max=settings.drain_s_max,
        spool_path=settings.spool_path,
        spool_bytes_max=settings.spool_bytes_max,
        checkpoint_interval_s=settings.checkpoint_interval_s,
        archive_interval_s=settings.archive_interval_s,
        drift_check_interval_s=settings.drift_check_interval_s,
        tracing=tracing_options(settings),
        economy_budget_tokens=settings.economy_budget_tokens,
        economy_strategy=settings.economy_strategy,
        economy_reserve_percent=settings.economy_reserve_percent,
        economy_starts_at_once="economy_budget_tokens" in settings.model_fields_set,
        redis=redis_options(settings),
        gateway=gateway_options(settings),
        alerts=alert_options(settings),
        api=ApiOptions(
            allowed_hosts=settings.allowed_hosts,
            body_bytes_max=settings.body_bytes_max,
            batch_bytes_max=settings.batch_bytes_max,
            request_timeout_s=settings.request_s_max,
            in_flight_max=settings.requests_in_flight_max,
            streams_max=settings.streams_max,
            heartbeat_s=settings.heartbeat_s,
            requests_per_minute_default=settings.key_requests_per_minute,
            trusted_proxies=settings.trusted_proxies,
            metric_labels_max=settings.metric_labels_max,
            metrics_open=settings.metrics_open,
            access_log=settings.access_log,
            anonymous_account=settings.economy_anonymous_account,
        ),
    )


def redis_options(settings: Settings) -> RedisOptions | None:
    """Where the live state is copied to; None: nowhere."""
    if settings.redis_url is None:
        return None
    return RedisOptions(
        url=settings.redis_url,
        timeout_ms=settings.redis_timeout_ms,
        stream_length_max=settings.redis_stream_length_max,
    )


def gateway_options(settings: Settings) -> GatewayOptions | None:
    """What the file of the gateway says, with the keys of the providers; None: there is no gateway.

    Raises:
        ConfigurationInvalid: it cannot be read or makes no sense.
    """
    path = settings.gateway_path
    if path is None:
        return None
    from fiscus.sdk.local_models import gateway_options as read

    return read(path, "gateway_path")


def alert_options(settings: Settings) -> AlertOptions | None:
    """What the file of the alerts says, with addresses and secrets; None: nothing is told outside.

    Raises:
        ConfigurationInvalid: it cannot be read or makes no sense.
    """
    path = settings.alerts_path
    if path is None:
        return None
    from fiscus.sdk.local_alerts import alert_options as read

    return read(path, "alerts_path")


def tracing_options(settings: Settings) -> TracingOptions | None:
    """Where spans go; None: there are none."""
    if settings.otel_endpoint is None:
        return None
    return TracingOptions(
        endpoint=settings.otel_endpoint, service_name=settings.otel_service_name, with_names=settings.otel_names
    )


def _text(secret: SecretStr | None) -> str | None:
    """A secret in the clear."""
    return secret.get_secret_value() if secret is not None else None
