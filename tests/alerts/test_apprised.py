"""E-mail through a real SMTP server, chat through a real HTTP server, and other people's code that hangs."""

from __future__ import annotations

import asyncio
import email
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.message import Message
from email.policy import default

import pytest
from aiosmtpd.controller import Controller

from fiscus.alerts.apprised import Apprised, body_of
from fiscus.alerts.channels import NotDelivered
from fiscus.alerts.entries import finding_alert
from fiscus.alerts.options import Channel
from fiscus.alerts.rules import Finding
from fiscus.contract.errors import ConfigurationInvalid
from tests.alerts.rig import receiver

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # what Apprise imports

ALERT = finding_alert(
    Finding(
        name="agent_share_high",
        about="agent:x",
        account="agent:x",
        data={"agent_tokens": 900, "tokens": 1_000, "minutes": 60},
    ),
    "default",
    datetime(2026, 11, 25, 12, tzinfo=UTC),
    7,
    key="1",
)


class Mailbox:
    """What an SMTP server has taken."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def handle_DATA(self, server, session, envelope) -> str:
        self.messages.append(email.message_from_bytes(envelope.content, policy=default))
        return "250 OK"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def smtp() -> Iterator[tuple[Mailbox, int]]:
    box = Mailbox()
    controller = Controller(box, hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        yield box, controller.port
    finally:
        controller.stop()


def mail(port: int, **fields: object) -> Channel:
    url = f"mailto://127.0.0.1:{port}?from=fiscus@example.org&to=ops@example.org&mode=insecure"
    return Channel(name="email", kind="apprise", url=url, **fields)


# covers R22
async def test_an_alert_comes_as_an_e_mail():
    with smtp() as (box, port):
        await Apprised(mail(port)).send("msg_1", ALERT)
    (message,) = box.messages
    assert message["To"] == "ops@example.org"
    assert message["Subject"] == "[warning] agent:x: uses 90 % of all tokens"
    text = message.get_body(("plain",)).get_content()
    assert "event: agent_share_high" in text
    assert "at: 2026-11-25 12:00:00 UTC" in text


async def test_a_mail_server_that_is_away_is_a_failure_that_says_no_address():
    with pytest.raises(NotDelivered) as failed:
        await Apprised(mail(free_port())).send("msg_1", ALERT)
    assert not failed.value.for_good
    assert "127.0.0.1" not in str(failed.value)


async def test_chat_that_speaks_http_gets_title_and_text():
    async with receiver() as hook:
        hook.mode = 200
        url = hook.url.replace("http://", "json://")
        await Apprised(Channel(name="chat", kind="apprise", url=url)).send("msg_1", ALERT)
        hook.mode = 500
        with pytest.raises(NotDelivered):
            await Apprised(Channel(name="chat", kind="apprise", url=url)).send("msg_1", ALERT)
    assert hook.bodies[0]["title"] == "[warning] agent:x: uses 90 % of all tokens"


async def test_a_call_that_hangs_keeps_one_thread_and_nobody_else():
    async with receiver() as hook:
        hook.mode = "hang"
        url = hook.url.replace("http://", "json://") + "?rto=2"
        channel = Apprised(Channel(name="chat", kind="apprise", url=url, send_s_max=0.1))
        threads = threading.active_count()
        with pytest.raises(NotDelivered, match="not done within"):
            await channel.send("msg_1", ALERT)
        for _ in range(20):
            with pytest.raises(NotDelivered, match="has not come back"):
                await channel.send("msg_1", ALERT)
        assert threading.active_count() <= threads + 1
        hook.mode = 200
        hook.leave()
        async with asyncio.timeout(5):
            while True:
                try:
                    await channel.send("msg_1", ALERT)
                except NotDelivered:
                    await asyncio.sleep(0.05)
                else:
                    break


def test_an_address_that_apprise_cannot_read_is_an_error_without_the_address():
    with pytest.raises(ConfigurationInvalid) as error:
        Apprised(Channel(name="chat", kind="apprise", url="nonsense://secret-token"))
    assert "chat" in str(error.value)
    assert "secret-token" not in str(error.value)


def test_a_message_is_bounded():
    long = finding_alert(
        Finding(name="tool_spike", data={"tool": "x" * 100_000, "uses": 10, "usual": 1.0, "minutes": 5}),
        "default",
        datetime(2026, 11, 25, tzinfo=UTC),
        7,
        key="1",
    )
    assert len(body_of(long)) == 4_000
