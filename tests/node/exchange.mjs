// An authorization server (oidc-provider) that gives a server's tokens for those of callers: on-behalf-of as Entra has it, and
// both halves of an Identity Assertion JWT Authorization Grant. What oidc-provider has no grants for are added here.
// Usage: node exchange.mjs PORT CALLERS_JWKS_URL CALLERS_ISSUER SECONDS
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createRemoteJWKSet, exportJWK, jwtVerify, SignJWT } from 'jose';
import Provider, { errors } from 'oidc-provider';

const [port, callersKeys, callersIssuer, seconds] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const key = { ...(await exportJWK(privateKey)), alg: 'ES256', use: 'sig', kid: 'k1' };
const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const BEARER = 'urn:ietf:params:oauth:grant-type:jwt-bearer';
const ID_JAG = 'urn:ietf:params:oauth:token-type:id-jag';
const client = (client_id, auth) => ({
  client_id, client_secret: 'secret', grant_types: [EXCHANGE, BEARER], redirect_uris: [], response_types: [], token_endpoint_auth_method: auth,
});
const provider = new Provider(issuer, {
  jwks: { keys: [key] },
  clients: [client('body', 'client_secret_post'), client('basic', 'client_secret_basic')],
  clientDefaults: { id_token_signed_response_alg: 'ES256' },
  findAccount: (_context, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  features: { introspection: { enabled: true, allowedPolicy: () => true } },
  ttl: { AccessToken: Number(seconds) },
});
const keys = createRemoteJWKSet(new URL(callersKeys));

async function verified(token, keySet, options) {
  try {
    return (await jwtVerify(token, keySet, options)).payload;
  } catch (error) {
    throw new errors.InvalidGrant(String(error));
  }
}

async function answer(ctx, sub) {
  const { client } = ctx.oidc;
  if (sub === 'mallory') throw new errors.InvalidGrant('not this one');
  const grant = new provider.Grant({ accountId: sub, clientId: client.clientId });
  grant.addOIDCScope('openid');
  const token = new provider.AccessToken({ accountId: sub, client, grantId: await grant.save(), gty: 'exchange', scope: 'openid' });
  ctx.body = { access_token: await token.save(), token_type: 'Bearer', expires_in: Number(seconds) };
}

provider.registerGrantType(EXCHANGE, async (ctx) => { // SEP-990: the identity provider's half
  const { subject_token, requested_token_type, audience } = ctx.oidc.params;
  if (requested_token_type !== ID_JAG) throw new errors.InvalidRequest('requested_token_type');
  const { sub } = await verified(subject_token, keys, { issuer: callersIssuer });
  const grant = new SignJWT({ client_id: 'basic' }).setProtectedHeader({ alg: 'ES256', kid: 'k1', typ: 'oauth-id-jag+jwt' });
  const signed = await grant.setIssuer(issuer).setSubject(sub).setAudience(audience).setIssuedAt().setExpirationTime('1m').setJti(randomUUID()).sign(privateKey);
  ctx.body = { access_token: signed, issued_token_type: ID_JAG, token_type: 'N_A', expires_in: 60 };
}, ['subject_token', 'subject_token_type', 'requested_token_type', 'audience', 'scope']);

provider.registerGrantType(BEARER, async (ctx) => {
  const { assertion, requested_token_use } = ctx.oidc.params;
  if (requested_token_use === 'on_behalf_of') { // Entra's
    return answer(ctx, (await verified(assertion, keys, { issuer: callersIssuer })).sub);
  }
  const options = { issuer, audience: issuer, typ: 'oauth-id-jag+jwt' }; // RFC 7523: the server's half
  return answer(ctx, (await verified(assertion, createRemoteJWKSet(new URL(`${issuer}/jwks`)), options)).sub);
}, ['assertion', 'requested_token_use', 'scope']);

provider.listen(Number(port), '127.0.0.1', () => console.log('listening'));
