"""Why the policies decide a request as they do. For people, not on the path of a request."""

from __future__ import annotations

from checkrein.decide.classify import Classifier
from checkrein.decide.context import Situation, provenance, question
from checkrein.model import BadRequest, Request
from checkrein.policy import explain as policies
from checkrein.policy.bundle import Bundle
from checkrein.policy.explain import PolicyExplained


def explain(
    request: Request, bundle: Bundle, situation: Situation, *, classifier: Classifier
) -> tuple[PolicyExplained, ...]:
    """What each policy that speaks of the action says; empty where `evaluate` denies before it asks them."""
    manifests = bundle.manifests
    resolved = manifests.resolve(request.action.name)
    if not request.is_prompt and (
        not resolved.known or manifests.check_input(request.action.name, request.action.input)
    ):
        return ()
    sources = provenance(request, None if request.is_prompt else resolved.manifest, situation)
    classified = classifier.classify(request, sources)
    try:
        asked = question(request, resolved, situation, classified, sources)
    except BadRequest:
        return ()
    return policies.explain(
        bundle.policies, asked.principal, asked.action, asked.resource, asked.context, asked.entities
    )
