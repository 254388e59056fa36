"""What enforcement points call things that have another name here, and which resources there are."""

from __future__ import annotations

import msgspec

from checkrein.model.request import Request


class Vocabulary(msgspec.Struct, frozen=True):
    """`actions` are their names and ours; `resources` the known ones by type and id, with their properties.

    It is spoken at the AuthZEN endpoints only: what is decided, recorded, approved and killed bears our names.
    """

    actions: dict[str, str] = {}
    resources: dict[str, dict[str, dict[str, str]]] = {}

    def inward(self, request: Request, *, believed: bool) -> Request:
        """The request in our names, with what is known of its resource.

        Of a property that both know, a caller that is `believed` has the last word, and any other has none.
        """
        action, resource = request.action, request.resource
        named = msgspec.structs.replace(action, name=self.actions.get(action.name, action.name))
        known, told = self.resources.get(resource.type, {}).get(resource.id, {}), resource.properties
        whole = msgspec.structs.replace(resource, properties={**known, **told} if believed else {**told, **known})
        return msgspec.structs.replace(request, action=named, resource=whole)
