"""Secrets of known formats: what vendors prefix their keys with, key blocks, and values that are called a secret.

The formats are those that the vendors document. A new one with a prefix of its own belongs in `_ISSUED`.
"""

from __future__ import annotations

import base64
import binascii

from checkrein.decide.rule import Found, Rule, mixed

#: keys and tokens that are known by how they begin; the vendors' own lengths, a little relaxed
_ISSUED = (
    rb"A3-[A-Z0-9]{6}(?:-[A-Z0-9]{5,11}){4,5}",  # 1Password
    rb"ops_eyJ[A-Za-z0-9+/]{200,}={0,3}",
    rb"p8e-[A-Za-z0-9]{32}",  # Adobe
    rb"AGE-SECRET-KEY-1[A-Z0-9]{58}",
    rb"pat[A-Za-z0-9]{14}\.[a-f0-9]{64}",  # Airtable
    rb"LTAI[A-Za-z0-9]{12,24}",  # Alibaba
    rb"AKCp[A-Za-z0-9]{69}",  # Artifactory
    rb"cmVmd[A-Za-z0-9]{59}",
    rb"ATATT3[A-Za-z0-9_\-=]{60,}",  # Atlassian
    rb"ATBB[A-Za-z0-9]{32}",
    rb"(?:sc|ext|scauth|authress)_[A-Za-z0-9]{5,30}\.[A-Za-z0-9]{4,6}\.acc[_\-][A-Za-z0-9\-]{10,32}\."
    rb"[A-Za-z0-9+/_=\-]{30,}",
    rb"ABSK[A-Za-z0-9+/]{100,}={0,2}",  # AWS Bedrock
    rb"bedrock-api-key-[A-Za-z0-9+/]{20,}={0,2}",
    rb"[A-Za-z0-9_~.]{3}\dQ~[A-Za-z0-9_~.\-]{31,34}",  # Microsoft Entra
    rb"4b1d[A-Za-z0-9]{38}",  # ClickHouse
    rb"CLOJARS_[A-Za-z0-9]{60}",
    rb"v1\.0-[a-f0-9]{24}-[a-f0-9]{146}",  # Cloudflare
    rb"dapi[a-f0-9]{32}(?:-\d)?",  # Databricks
    rb"dnkey-[A-Za-z0-9=_\-]{60,}",
    rb"do[opr]_v1_[a-f0-9]{64}",  # DigitalOcean
    rb"dp\.(?:pt|st|ct|sa|scim|audit)\.[A-Za-z0-9._\-]{40,}",  # Doppler
    rb"duffel_(?:test|live)_[A-Za-z0-9_\-=]{43}",
    rb"dt0[a-z]\d\d\.[A-Za-z0-9]{24}\.[A-Za-z0-9]{64}",  # Dynatrace
    rb"EZ[AT]K[A-Za-z0-9]{54}",  # EasyPost
    rb"EAA[A-Z][A-Za-z0-9]{60,}",  # Meta
    rb"\d{15,16}[|%][A-Za-z0-9_\-]{27,40}",
    rb"FLW(?:PUB|SEC)K(?:_TEST)?-[A-Za-z0-9]{12,}(?:-X)?",  # Flutterwave
    rb"fo1_[A-Za-z0-9_\-]{43}",  # Fly
    rb"fm[12][ar]?_[A-Za-z0-9+/]{100,}={0,3}",
    rb"fio-u-[A-Za-z0-9\-_=]{64}",
    rb"GR1348941[A-Za-z0-9_\-]{20}",  # GitLab runners
    rb"_gitlab_session=[a-z0-9]{32}",
    rb"glc_[A-Za-z0-9+/]{32,}={0,3}",  # Grafana
    rb"glsa_[A-Za-z0-9]{32}_[A-Fa-f0-9]{8}",
    rb"eyJrIjoi[A-Za-z0-9+/]{60,}={0,3}",
    rb"gsk_[A-Za-z0-9]{48,}",  # Groq
    rb"[ps]at\.[A-Za-z0-9_\-]{22}\.[A-Za-z0-9]{24}\.[A-Za-z0-9]{20}",  # Harness
    rb"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9\-_=]{60,}",  # HashiCorp
    rb"hv[bsr]\.[A-Za-z0-9_\-]{24,}",
    rb"s\.[A-Za-z0-9]{24}\b",  # Vault, before 1.10
    rb"HRKU-AA[A-Za-z0-9_\-]{58}",  # Heroku
    rb"api_org_[A-Za-z]{34}",  # Hugging Face
    rb"ico-[A-Za-z0-9]{32}",  # Infracost
    rb"s-s4t2(?:ud|af)-[A-Fa-f0-9]{64}",
    rb"lin_(?:api|oauth)_[A-Za-z0-9]{40,}",  # Linear
    rb"[a-f0-9]{32}-us\d{1,2}",  # Mailchimp
    rb"(?:pub)?key-[a-f0-9]{32}",  # Mailgun
    rb"[ps]k\.[A-Za-z0-9]{60}\.[A-Za-z0-9]{22}",  # Mapbox
    rb"[A-Za-z0-9]{6}_[A-Za-z0-9]{29}_mmk",  # MaxMind
    rb"NR(?:AK-[A-Za-z0-9]{27}|JS-[a-f0-9]{19}|II-[A-Za-z0-9\-]{32})",  # New Relic
    rb"ntn_\d{11}[A-Za-z0-9]{35}",  # Notion
    rb"secret_[A-Za-z0-9]{43}",
    rb"oy2[a-z0-9]{43}",  # NuGet
    rb"API-[A-Z0-9]{26}",  # Octopus
    rb"sha256~[A-Za-z0-9_\-]{43}",  # OpenShift
    rb"access-(?:sandbox|development|production)-[a-f0-9\-]{36}",  # Plaid
    rb"pplx-[A-Za-z0-9]{48}",
    rb"pscale_(?:tkn|pw|oauth)_[A-Za-z0-9=._\-]{32,}",
    rb"PMAK-[A-Fa-f0-9]{24}-[A-Fa-f0-9]{34}",  # Postman
    rb"pn[ub]_[A-Za-z0-9]{36}",  # Prefect
    rb"pul-[a-f0-9]{40}",
    rb"r8_[A-Za-z0-9]{37}",  # Replicate
    rb"rdme_[a-z0-9]{70}",
    rb"rubygems_[a-f0-9]{48}",
    rb"tk-us-[A-Za-z0-9_\-]{48}",
    rb"xkeysib-[a-f0-9]{64}-[A-Za-z0-9]{16}",  # Brevo
    rb"sntrys_eyJ[A-Za-z0-9+/=_]{60,}",  # Sentry
    rb"sntryu_[a-f0-9]{64}",
    rb"sm_(?:aat|pat|sat)_[A-Za-z0-9]{16}",
    rb"shippo_(?:live|test)_[A-Fa-f0-9]{40}",
    rb"shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32}",  # Shopify
    rb"sq[apu]_[A-Za-z0-9]{40}",  # Sonar
    rb"sgp_(?:(?:[A-Fa-f0-9]{16}|local)_)?[A-Fa-f0-9]{40}",  # Sourcegraph
    rb"EAAA[A-Za-z0-9_\-]{22,}",  # Square
    rb"sq0[a-z]{3}-[A-Za-z0-9_\-]{22,}",
    rb"tskey-[a-z]{3,12}-[A-Za-z0-9\-]{16,}",  # Tailscale
    rb"\d{5,16}:A[A-Za-z0-9_\-]{34}",  # Telegram
    rb"SK[0-9a-fA-F]{32}",  # Twilio
    rb"tfp_[A-Za-z0-9\-_.=]{59}",  # Typeform
    rb"xai-[A-Za-z0-9]{70,}",
    rb"AQVN[A-Za-z0-9_\-]{35,38}",  # Yandex
    rb"t1\.[A-Za-z0-9_\-]{3,}={0,2}\.[A-Za-z0-9_\-]{86}={0,2}",
    rb"YC[A-Za-z0-9_\-]{38}",
)

#: what a secret is called where one is assigned
_CALLED = (
    rb"pass(?:word|wd|phrase|code)|pwd|credentials?|(?:api|access|private|signing|encryption|account|auth|master|"
    rb"service|license|client|shared|app|deploy|webhook)[_\- ]?(?:access[_\- ]?)?key|sharedaccesskey|"
    rb"(?:api|app|client|shared|consumer|webhook|signing|session|oauth)[_\- ]?secret|secret[_\- ]?(?:key|token|access)|"
    rb"(?:access|auth|bearer|api|refresh|session|security|oauth|bot|deploy|personal|user|id|service)[_\- ]?token"
)


def _basic(data: bytes, start: int, end: int, _field: bytes) -> Found:
    """`name:password` in base64."""
    value = data[start:end]
    try:
        text = base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        return
    if b":" in text and text.isascii():
        yield start, end


SECRETS = (
    Rule("secret.checkrein_key", rb"\bcrk_[A-Za-z0-9_\-]{16,}", None, 5),
    Rule("secret.aws_key", rb"\b(?:AKIA|ASIA|ABIA|ACCA|A3T[A-Z0-9])[A-Z2-7]{16}\b", None, 4),
    Rule(
        "secret.aws_key",
        rb"(?i)aws[a-z0-9_\- ]{0,20}(?:secret|key)[a-z_\- ]{0,20}[\"']?\s*[:=]\s*[\"']?([a-z0-9/+]{40})",
        None,
        4,
    ),
    Rule("secret.github_token", rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})", None, 4),
    Rule(
        "secret.gitlab_token",
        rb"\bgl(?:pat|ptt|dt|rt|cbt|ft|ffct|imt|agent|oas|soat|rtr)-[A-Za-z0-9_.\-]{20,}",
        None,
        4,
    ),
    Rule("secret.anthropic_key", rb"\bsk-ant-[A-Za-z0-9_\-]{20,}", None, 5),
    Rule("secret.openai_key", rb"\bsk-[A-Za-z0-9_\-]{20,}", mixed, 4),
    Rule("secret.google_key", rb"\bAIza[A-Za-z0-9_\-]{35}", None, 4),
    Rule("secret.google_key", rb"\bya29\.[A-Za-z0-9_\-]{20,}", None, 4),
    Rule("secret.stripe_key", rb"\b(?:[rs]k_(?:live|test|prod)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9+/]{24,}=*)", None, 4),
    Rule("secret.slack_token", rb"\bxox[a-z](?:\.xox[bp])?-[A-Za-z0-9\-]{8,}", None, 4),
    Rule("secret.slack_token", rb"(?i)\bxapp-\d-[a-z0-9]+-\d+-[a-z0-9]+", None, 4),
    Rule("secret.slack_token", rb"\bhooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9+/]{20,}", None, 4),
    Rule("secret.webhook", rb"\bdiscord(?:app)?\.com/api/webhooks/\d{15,}/[A-Za-z0-9_\-]{50,}", None, 4),
    Rule("secret.webhook", rb"\b[a-z0-9]+\.webhook\.office\.com/webhookb2/[A-Za-z0-9@\-/]{60,}", None, 4),
    Rule("secret.npm_token", rb"(?i)\bnpm_[a-z0-9]{36}", None, 4),
    Rule("secret.pypi_token", rb"\bpypi-AgE[A-Za-z0-9_\-]{50,}", None, 4),
    Rule("secret.huggingface_token", rb"\bhf_[A-Za-z0-9]{30,}", None, 4),
    Rule("secret.sendgrid_key", rb"\bSG\.[A-Za-z0-9_\-=.]{60,70}", None, 4),
    Rule("secret.api_token", rb"\b(?:" + b"|".join(_ISSUED) + rb")", None, 4),
    Rule("secret.jwt", rb"\beyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*", None, 4),
    Rule(
        "secret.private_key",
        rb"-----BEGIN[A-Z0-9 _]{0,40}PRIVATE KEY(?: BLOCK)?-----(?:[^\-]|-[^\-])*"
        rb"(?:-----END[A-Z0-9 _]{0,40}PRIVATE KEY(?: BLOCK)?-----)?",
        None,
        6,
    ),
    Rule(
        "secret.connection_string",
        rb"(?i)\b[a-z][a-z0-9+.\-]{1,30}://[^\s:/@\"'<>]*:[^\s/\"'<>]+@[^\s\"'<>,]+",
        None,
        5,
    ),
    Rule("secret.bearer_token", rb"(?i)\bbearer\s+([a-z0-9._~+/\-]{20,}=*)", mixed, 3),
    Rule("secret.basic_auth", rb"(?i)\bbasic\s+([a-z0-9+/]{8,}={0,2})", _basic, 3),
    Rule(
        "secret.password",
        rb"(?i)(?:" + _CALLED + rb")[a-z0-9_\-]{0,20}[\"'`]?\s*(?:[:=]|=>|\bis\b)\s*[\"'`]?([^\s\"'`,;<>]{8,})",
        mixed,
        3,
    ),
    Rule(
        "secret.signature",
        rb"(?i)[?&](?:sig|signature|x-amz-signature|x-goog-signature|key|token)=([^\s\"'<>&]{16,})",
        mixed,
        3,
    ),
)
