"""What JSON Schema cannot say of a request."""

import schemathesis
from hypothesis import strategies as st

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789:-_./@", min_size=1, max_size=40)
# `user_id:` names a user, wherever it is.
SCOPES = NAMES.filter(lambda name: "user_id" not in name)
USERS = SCOPES.map("user_id:{}".format)


def mixed(parts):
    users, scopes = parts
    return st.permutations(users + scopes).map(" ".join)


LISTS = st.tuples(st.lists(USERS, min_size=1, max_size=8), st.lists(SCOPES, min_size=1, max_size=8))
schemathesis.openapi.format("users-and-scopes", LISTS.flatmap(mixed))


def written_whole(value):
    """Writes 42.0, which JSON Schema takes for an integer, as 42: the broker refuses ids with a fraction."""
    if isinstance(value, list):
        return [written_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    # The least life must be less than the lifetime, which is a day where the request names none.
    if case.headers and "Token-Min-TTL" in case.headers:
        if case.operation.definition.raw["operationId"] == "issueToken":
            del case.headers["Token-Min-TTL"]
        else:
            case.headers["Token-Min-TTL"] = "1s"
    body = case.body
    if isinstance(body, dict):
        for name in ("userId", "user_id", "user_ids"):
            if name in body:
                body[name] = written_whole(body[name])
        if "min_ttl" in body and "expires_in" in body:
            del body["min_ttl"]
        elif "min_ttl" in body:
            body["min_ttl"] = 1
        # The settings name the profiles.
        if "profile" in body:
            body["profile"] = "mobile"
