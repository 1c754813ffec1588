"""The official Python SDK, unmodified, with its base URL set to the broker.

Environment: COURIER_BASE_URL, which the SDK reads by itself, and CLIENT_KEY,
the key of a client that may ask for the scopes of the inbox profile.
Prints `ok` if all assertions hold, and raises otherwise.
"""

import base64
import json
import os
import time

import courier
from courier import Courier, DefaultHttpxClient

USER = "user_id:sdk-user"
SCOPES = [
    "inbox:read:messages",
    "inbox:write:events",
    "read:preferences",
    "write:preferences",
    "read:brands",
]
SCOPE = " ".join([USER, *SCOPES])
LIFETIME = "2 hours"
LONGEST = 2 * 60 * 60


def check(holds, message):
    """An `assert` that `python -O` does not strip."""
    if not holds:
        raise AssertionError(message)


class Requests:
    """Counts the requests that leave the SDK.

    Two of its retries may take little more than a second, which a clock can't
    tell from a slow machine.
    """

    def __init__(self):
        self.count = 0

    def __call__(self, _request):
        self.count += 1


def claims_of(token):
    parts = token.split(".")
    check(len(parts) == 3, f"the token is not a JWT: {token}")
    padded = parts[1] + "=" * (-len(parts[1]) % 4)
    return json.loads(base64.urlsafe_b64decode(padded))


def is_refused(requests, what, call, *, as_, status, type_, saying=""):
    requests.count = 0
    start = time.monotonic()
    try:
        answer = call()
    except courier.CourierError as raised:
        error = raised
    else:
        raise AssertionError(f"{what}: was not refused but got {answer!r}")
    seconds = time.monotonic() - start
    check(
        isinstance(error, as_),
        f"{what}: must raise {as_.__name__}, not {type(error).__name__}: {error}",
    )
    found = error.response.status_code
    check(found == status, f"{what}: must be a {status}, not {found}")
    body = error.body
    check(isinstance(body, dict), f"{what}: the body must be a JSON object: {body!r}")
    check(body.get("type") == type_, f"{what}: the body's type must be {type_}: {body}")
    message = str(body.get("message") or "")
    check(
        message and saying in message,
        f"{what}: the body's message must say {saying!r}: {body}",
    )
    check(
        requests.count == 1,
        f"{what}: can't get better, yet was tried {requests.count} times",
    )
    check(seconds < 2, f"{what}: took {seconds:.3f} s")


def main():
    base_url = os.environ.get("COURIER_BASE_URL")
    client_key = os.environ.get("CLIENT_KEY")
    check(base_url, "COURIER_BASE_URL must be the address of the broker")
    check(client_key, "CLIENT_KEY must be a client key that the broker knows")

    requests = Requests()

    def sdk(api_key):
        hooks = {"request": [requests]}
        return Courier(api_key=api_key, http_client=DefaultHttpxClient(event_hooks=hooks))

    with sdk(client_key) as client, sdk("a-key-that-no-client-has") as stranger:
        # The SDK adds a slash to the base URL.
        taken = str(client.base_url).rstrip("/")
        check(taken == base_url.rstrip("/"), "the SDK did not take COURIER_BASE_URL")

        token = client.auth.issue_token(scope=SCOPE, expires_in=LIFETIME).token
        claims = claims_of(token)
        check(
            sorted(str(claims.get("scope")).split(" ")) == sorted([USER, *SCOPES]),
            f"the token must be for {SCOPE}, and not for {claims.get('scope')}",
        )
        lifetime = claims["exp"] - claims["iat"]
        check(
            0 < lifetime <= LONGEST,
            f"the token must live for 2 hours at most, and not for {lifetime} s",
        )

        again = client.auth.issue_token(scope=SCOPE, expires_in=LIFETIME).token
        check(again == token, "the second call must get the token of the first")
        check(
            requests.count == 2,
            f"two calls must be two requests, not {requests.count}",
        )

        is_refused(
            requests,
            "a lifetime that Courier does not read",
            lambda: client.auth.issue_token(scope=SCOPE, expires_in="1 month"),
            as_=courier.BadRequestError,
            status=400,
            type_="invalid_request_error",
        )
        is_refused(
            requests,
            "a wrong key",
            lambda: stranger.auth.issue_token(scope=SCOPE, expires_in=LIFETIME),
            as_=courier.AuthenticationError,
            status=401,
            type_="authentication_error",
        )
        is_refused(
            requests,
            "a scope beyond the least privilege",
            lambda: client.auth.issue_token(
                scope=f"{USER} write:brands", expires_in=LIFETIME
            ),
            as_=courier.PermissionDeniedError,
            status=403,
            type_="authorization_error",
        )
        is_refused(
            requests,
            "a call that is not for a token",
            lambda: client.send.message(
                message={"to": {"user_id": "sdk-user"}, "template": "welcome"}
            ),
            as_=courier.NotFoundError,
            status=404,
            type_="invalid_request_error",
            saying="base URL",
        )

    print("ok")


if __name__ == "__main__":
    main()
