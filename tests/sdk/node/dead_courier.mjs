// One call of the official Node SDK, unmodified, while Courier fails.
//
// Environment: COURIER_BASE_URL, which the SDK reads by itself, and CLIENT_KEY, the key of a client.
// Prints `ok` if the SDK gives up after one request, and throws otherwise.

import assert from 'node:assert/strict';
import Courier from '@trycourier/courier';

let requests = 0;
const countedFetch = (...request) => {
  requests += 1;
  return fetch(...request);
};

const client = new Courier({ apiKey: process.env.CLIENT_KEY, fetch: countedFetch });
assert.equal(client.baseURL, process.env.COURIER_BASE_URL, 'the SDK did not take COURIER_BASE_URL');

const start = performance.now();
const error = await client.auth
  .issueToken({ scope: 'user_id:sdk-user inbox:read:messages', expires_in: '2 hours' })
  .then(
    (answer) => assert.fail(`there was a token: ${JSON.stringify(answer)}`),
    (error) => error,
  );
const seconds = ((performance.now() - start) / 1000).toFixed(1);

assert.ok(error instanceof Courier.InternalServerError, `${error.constructor.name}: ${error.message}`);
assert.equal(error.error?.type, 'api_error', JSON.stringify(error.error));
assert.equal(requests, 1, `the SDK repeated what the broker had tried: ${requests} requests`);

console.log(`${error.status} after ${seconds} s`);
console.log('ok');
