"""The file of the alerts: what is wrong is named, and no address or secret is shown."""

from __future__ import annotations

import pytest

from fiscus.alerts.catalogue import CATALOGUE
from fiscus.alerts.options import read_options
from fiscus.contract.errors import ConfigurationInvalid
from tests.alerts.rig import SECRET

GOOD = """
alert_channels = ["ops"]
[[channels]]
name = "ops"
kind = "webhook"
url_variable = "OPS_URL"
secret_variables = ["OPS_SECRET"]
accounts = ["team:*"]
kinds = ["budget_alert", "overdrawn"]
severity = "critical"

[[channels]]
name = "email"
kind = "apprise"
url = "mailto://user:password@example.org"

[rules.high_token_consumption]
limit = 50
[rules.tool_spike]
on = false
"""
SECRETS = {"OPS_URL": "https://example.org/hook/secret-token", "OPS_SECRET": SECRET}


def read(text: str):
    return read_options(text.encode(), "alerts.toml", SECRETS.__getitem__)


# covers R22
def test_addresses_and_secrets_come_from_the_environment_and_alert_channels_says_which_are_in_use():
    options = read(GOOD)
    assert [channel.name for channel in options.channels] == ["ops", "email"]
    assert [channel.name for channel in options.active] == ["ops"]
    assert options.channels[0].url == SECRETS["OPS_URL"]
    assert len(options.channels[0].keys[0]) == 24
    assert options.rules.high_token_consumption.limit == 50
    assert options.rules.high_token_consumption.minutes == 5
    assert not options.rules.tool_spike.on
    assert [channel.name for channel in read(GOOD.replace('alert_channels = ["ops"]', "")).active] == ["ops", "email"]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('alert_channels = ["ops"]', 'alert_channels = ["slack"]', "alert_channels"),
        ('kind = "webhook"', 'kind = "pigeon"', "channels[0].kind"),
        ('name = "email"', 'name = "ops"', "channels[1].name"),
        ('name = "email"', 'name = "E mail"', "channels[1].name"),
        ('"overdrawn"', '"overdrown"', "channels[0].kinds"),
        ('severity = "critical"', 'severity = "dire"', "channels[0].severity"),
        ('url_variable = "OPS_URL"', "", "channels[0]: needs either url or url_variable"),
        ('url_variable = "OPS_URL"', 'url = "http://example.org/secret-token"', "channels[0].url"),
        ('url_variable = "OPS_URL"', 'url = "ftp://example.org/secret-token"', "channels[0].url"),
        ('url_variable = "OPS_URL"', 'url = "https://a:secret-token@example.org"', "channels[0].url"),
        ('url_variable = "OPS_URL"', 'url = "https://[secret-token"', "channels[0].url"),
        ('url_variable = "OPS_URL"', 'url = "https://example.org:secret-token"', "channels[0].url"),
        ('secret_variables = ["OPS_SECRET"]', "", "channels[0].secrets"),
        ('secret_variables = ["OPS_SECRET"]', 'secrets = ["secret-token"]', "channels[0].secrets[0]"),
        ('secret_variables = ["OPS_SECRET"]', 'secrets = ["whsec_c2hvcnQ="]', "channels[0].secrets[0]"),
        ("limit = 50", "limit = -1", "rules.high_token_consumption.limit"),
        ("limit = 50", "limits = 1", "limits"),
        ("[rules.tool_spike]", "[rules.tool_spikes]", "tool_spikes"),
        ("[[channels]]", "[[channel", "alerts.toml"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_secret_is_shown(old, new, named):
    with pytest.raises(ConfigurationInvalid) as error:
        read(GOOD.replace(old, new, 1))
    assert named in str(error.value)
    assert "secret-token" not in str(error.value)
    assert "password" not in str(error.value) or "must not carry" in str(error.value)


def test_plain_http_is_for_this_machine_or_by_explicit_wish():
    for url in ("http://127.0.0.1:80/x", "http://localhost/x", "http://[::1]/x"):
        assert read(GOOD.replace('url_variable = "OPS_URL"', f'url = "{url}"')).channels[0].url == url
    wished = 'url = "http://10.0.0.7/x"\nallow_http = true'
    assert read(GOOD.replace('url_variable = "OPS_URL"', wished)).channels[0].allow_http


def test_every_name_and_alias_may_be_asked_for():
    names = [name for fact in CATALOGUE.values() for name in fact.aliases] + list(CATALOGUE)
    wishes = ", ".join(f'"{name}"' for name in names)
    assert len(read(GOOD.replace('"budget_alert", "overdrawn"', wishes)).channels[0].kinds) == len(names)
