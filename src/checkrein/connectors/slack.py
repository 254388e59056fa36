"""Messages into a channel, through an incoming webhook as Slack has them; others take the same."""

from __future__ import annotations

from checkrein.connectors.webhook import Webhook
from checkrein.model.json import dumps
from checkrein.ports import Notice, Posted


class SlackChannel:
    """The `Channel` port: one address, which is a secret and leads to one channel."""

    def __init__(self, url: str, *, timeout_s: float = 10.0) -> None:
        self._hook = Webhook(url, (), timeout_s=timeout_s)

    async def tell(self, id: str, notices: tuple[Notice, ...], at_s: int) -> Posted:
        """Post what there is to say as one message; it ends with the id, by which one that comes twice is known."""
        said = [f"*{_escaped(notice.subject)}*\n{_text(notice)}" for notice in notices]
        body = dumps({"text": "\n\n".join([*said, f"_{_escaped(id)}_"])})
        return await self._hook.post(id, body, "application/json", at_s)

    async def close(self) -> None:
        await self._hook.close()


def _text(notice: Notice) -> str:
    link = f"\n<{_escaped(notice.link)}|Look and answer>" if notice.link else ""
    return "\n".join(map(_escaped, notice.lines)) + link


def _escaped(text: str) -> str:
    """As Slack asks: nothing in a name becomes a link or calls the whole channel."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
