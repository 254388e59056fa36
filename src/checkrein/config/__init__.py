"""What a deployment is told: `checkrein.toml`, `.env`, the environment and flags.

Lives here: the sections and their defaults (`sections`), what is read from where (`load`), what a value must keep
(`checks`), and where it stands, for errors (`places`). Not here: what the values do. A new section is a struct in
`sections`, a row in `SECTIONS` or `NAMED`, and a row in the tables at the end of `checks`. Start with `sections`.
"""

from checkrein.config.load import CLIENT_NAMES, OTHER_NAMES, Loaded, Origin, load
from checkrein.config.places import FILE, PREFIX
from checkrein.config.sections import (
    NAMED,
    SECTIONS,
    Config,
    NotifyConfig,
    OidcConfig,
    Person,
    UpstreamConfig,
    WebhookConfig,
    WitnessConfig,
)

__all__ = [
    "CLIENT_NAMES",
    "FILE",
    "NAMED",
    "OTHER_NAMES",
    "PREFIX",
    "SECTIONS",
    "Config",
    "Loaded",
    "NotifyConfig",
    "OidcConfig",
    "Origin",
    "Person",
    "UpstreamConfig",
    "WebhookConfig",
    "WitnessConfig",
    "load",
]
