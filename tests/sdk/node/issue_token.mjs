// The official Node SDK, unmodified, with its base URL set to the broker.
//
// Environment: COURIER_BASE_URL, which the SDK reads by itself, and CLIENT_KEY,
// the key of a client that may ask for the scopes of the inbox profile.
// Prints `ok` if all assertions hold, and throws otherwise.

import assert from 'node:assert/strict';
import Courier from '@trycourier/courier';

const { COURIER_BASE_URL, CLIENT_KEY } = process.env;
assert.ok(COURIER_BASE_URL, 'COURIER_BASE_URL must be the address of the broker');
assert.ok(CLIENT_KEY, 'CLIENT_KEY must be a client key that the broker knows');

const USER = 'user_id:sdk-user';
const SCOPES = [
  'inbox:read:messages',
  'inbox:write:events',
  'read:preferences',
  'write:preferences',
  'read:brands',
];
const ASK = { scope: [USER, ...SCOPES].join(' '), expires_in: '2 hours' };
const LONGEST = 2 * 60 * 60;

// Counts requests: two retries of the SDK may take little more than a second,
// which a clock cannot distinguish from a slow machine.
let requests = 0;
const countedFetch = (...request) => {
  requests += 1;
  return fetch(...request);
};

const client = new Courier({ apiKey: CLIENT_KEY, fetch: countedFetch });
const stranger = new Courier({ apiKey: 'a-key-that-no-client-has', fetch: countedFetch });
assert.equal(client.baseURL, COURIER_BASE_URL, 'the SDK did not take COURIER_BASE_URL');

function claimsOf(token) {
  const parts = String(token).split('.');
  assert.equal(parts.length, 3, `the token is not a JWT: ${token}`);
  return JSON.parse(Buffer.from(parts[1], 'base64url').toString('utf8'));
}

async function isRefused(what, call, { as: Wanted, status, type, saying = /\S/ }) {
  requests = 0;
  const start = performance.now();
  const error = await call().then(
    (answer) => assert.fail(`${what}: was not refused but got ${JSON.stringify(answer)}`),
    (error) => error,
  );
  const milliseconds = performance.now() - start;
  assert.ok(
    error instanceof Wanted,
    `${what}: must raise ${Wanted.name}, not ${error.constructor.name}: ${error.message}`,
  );
  assert.equal(error.status, status, `${what}: must be a ${status}, not ${error.status}`);
  assert.equal(
    error.error?.type,
    type,
    `${what}: the body's type must be ${type}: ${JSON.stringify(error.error)}`,
  );
  assert.match(
    String(error.error.message),
    saying,
    `${what}: the body's message must match ${saying}: ${JSON.stringify(error.error)}`,
  );
  assert.equal(requests, 1, `${what}: can't get better, yet was tried ${requests} times`);
  assert.ok(milliseconds < 2000, `${what}: took ${milliseconds} ms`);
}

const { token } = await client.auth.issueToken(ASK);
const claims = claimsOf(token);
assert.deepEqual(
  String(claims.scope).split(' ').sort(),
  [USER, ...SCOPES].sort(),
  `the token must be for ${ASK.scope}, and not for ${claims.scope}`,
);
const lifetime = claims.exp - claims.iat;
assert.ok(
  lifetime > 0 && lifetime <= LONGEST,
  `the token must live for 2 hours at most, and not for ${lifetime} s`,
);

const again = await client.auth.issueToken(ASK);
assert.equal(again.token, token, 'the second call must get the token of the first');
assert.equal(requests, 2, `two calls must be two requests, not ${requests}`);

await isRefused(
  'a lifetime that Courier does not read',
  () => client.auth.issueToken({ ...ASK, expires_in: '1 month' }),
  { as: Courier.BadRequestError, status: 400, type: 'invalid_request_error' },
);
await isRefused('a wrong key', () => stranger.auth.issueToken(ASK), {
  as: Courier.AuthenticationError,
  status: 401,
  type: 'authentication_error',
});
await isRefused(
  'a scope beyond the least privilege',
  () => client.auth.issueToken({ ...ASK, scope: `${USER} write:brands` }),
  { as: Courier.PermissionDeniedError, status: 403, type: 'authorization_error' },
);
await isRefused(
  'a call that is not for a token',
  () => client.send.message({ message: { to: { user_id: 'sdk-user' }, template: 'welcome' } }),
  {
    as: Courier.NotFoundError,
    status: 404,
    type: 'invalid_request_error',
    saying: /base URL/,
  },
);

console.log('ok');
