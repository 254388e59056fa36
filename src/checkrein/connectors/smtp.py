"""Messages by mail, with the standard library's client in a thread: one for each person, who sees no other's name."""

from __future__ import annotations

import asyncio
import enum
import hashlib
import logging
import smtplib
import ssl
from collections import OrderedDict
from email.errors import MessageError
from email.message import EmailMessage
from email.utils import formatdate

from checkrein.model import UpstreamUnavailable
from checkrein.ports import Notice, Posted

log = logging.getLogger("checkrein.smtp")

#: messages that are remembered as sent, so that who was reached is not told again because another was not
_REMEMBERED = 10_000
_PERMANENT = 500


class Tls(enum.StrEnum):
    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


class SmtpChannel:
    """The `Channel` port: one mail server. Its certificate is checked against `context`."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        sender: str,
        tls: Tls = Tls.STARTTLS,
        user: str = "",
        password: str = "",
        timeout_s: float = 10.0,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._host, self._port = host, port
        self._sender = sender
        self._tls = tls
        self._user, self._password = user, password
        self._timeout_s = timeout_s
        self._context = context or ssl.create_default_context()
        self._sent: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def tell(self, id: str, notices: tuple[Notice, ...], at_s: int) -> Posted:
        """See `ports.Channel`. A message has the same `Message-ID` whenever it is sent again."""
        return await asyncio.to_thread(self._tell, id, notices, at_s)

    async def close(self) -> None:
        """Nothing is kept open."""

    def _tell(self, id: str, notices: tuple[Notice, ...], at_s: int) -> Posted:
        reached, refused, later = 0, 0, ""
        try:
            with self._connect() as server:
                for notice in notices:
                    code = 0 if (id, notice.to) in self._sent else self._send(server, id, notice, at_s)
                    if not code:
                        reached += 1
                        self._remember(id, notice.to)
                    elif code >= _PERMANENT:
                        refused += 1
                        log.warning("a message about %s was refused for good with %d", id, code)
                    else:
                        later = f"answered {code}"
        # `from None`: the client's errors may carry the login and the addresses
        except smtplib.SMTPAuthenticationError:
            raise UpstreamUnavailable("does not take the login") from None
        except (smtplib.SMTPException, OSError) as error:
            raise UpstreamUnavailable(f"cannot be reached: {type(error).__name__}") from None
        if later:
            raise UpstreamUnavailable(later)
        return Posted(422 if refused and not reached else 200)

    def _connect(self) -> smtplib.SMTP:
        if self._tls is Tls.TLS:
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                self._host, self._port, timeout=self._timeout_s, context=self._context
            )
        else:
            server = smtplib.SMTP(self._host, self._port, timeout=self._timeout_s)
        try:
            if self._tls is Tls.STARTTLS:
                server.starttls(context=self._context)
            if self._user:
                server.login(self._user, self._password)
        except BaseException:
            server.close()
            raise
        return server

    def _send(self, server: smtplib.SMTP, id: str, notice: Notice, at_s: int) -> int:
        """0, or the code with which this one message was refused."""
        try:
            server.send_message(self._message(id, notice, at_s), self._sender, [notice.to])
        except smtplib.SMTPRecipientsRefused as error:
            return next(iter(error.recipients.values()))[0]
        except smtplib.SMTPDataError as error:
            return error.smtp_code
        except (MessageError, ValueError, smtplib.SMTPNotSupportedError):  # an address that is none
            return _PERMANENT
        return 0

    def _message(self, id: str, notice: Notice, at_s: int) -> EmailMessage:
        message = EmailMessage()
        message["From"] = self._sender
        message["To"] = notice.to
        message["Subject"] = f"[checkrein] {notice.subject}"
        message["Date"] = formatdate(at_s)
        message["Message-ID"] = f"<{id}.{hashlib.sha256(notice.to.encode()).hexdigest()[:16]}@checkrein>"
        message["Auto-Submitted"] = "auto-generated"
        link = ("", f"Look and answer: {notice.link}") if notice.link else ()
        message.set_content("\n".join((*notice.lines, *link, "")))
        return message

    def _remember(self, id: str, to: str) -> None:
        self._sent[id, to] = None
        while len(self._sent) > _REMEMBERED:
            self._sent.popitem(last=False)
