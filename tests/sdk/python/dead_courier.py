"""One call of the official Python SDK, unmodified, while Courier fails.

Environment: COURIER_BASE_URL, which the SDK reads by itself, and CLIENT_KEY, the key of a client.
Prints `ok` if the SDK gives up after one request, and raises otherwise.
"""

import os
import time

import courier
from courier import Courier, DefaultHttpxClient


def check(holds, message):
    """An `assert` that `python -O` does not strip."""
    if not holds:
        raise AssertionError(message)


def main():
    requests = []
    hooks = {"request": [requests.append]}
    http_client = DefaultHttpxClient(event_hooks=hooks)
    with Courier(api_key=os.environ["CLIENT_KEY"], http_client=http_client) as client:
        start = time.monotonic()
        try:
            answer = client.auth.issue_token(
                scope="user_id:sdk-user inbox:read:messages", expires_in="2 hours"
            )
        except courier.InternalServerError as raised:
            error = raised
        else:
            raise AssertionError(f"there was a token: {answer!r}")
        seconds = time.monotonic() - start
    check(error.body.get("type") == "api_error", f"the body: {error.body!r}")
    check(
        len(requests) == 1,
        f"the SDK repeated what the broker had tried: {len(requests)} requests",
    )
    print(f"{error.response.status_code} after {seconds:.1f} s")
    print("ok")


if __name__ == "__main__":
    main()
