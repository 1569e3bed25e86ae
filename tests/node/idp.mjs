// An authorization server that others wrote (oidc-provider): authorization code with PKCE, dynamic registration, and
// access tokens as JWT for one resource. Usage: node idp.mjs PORT RESOURCE
import { generateKeyPairSync } from 'node:crypto';
import Provider from 'oidc-provider';

const [port, resource] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const key = { ...generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' }), alg: 'ES256', use: 'sig', kid: 'k1' };
const provider = new Provider(issuer, {
  jwks: { keys: [key] },
  clientDefaults: { id_token_signed_response_alg: 'ES256' },
  scopes: ['openid', 'offline_access', 'mcp'],
  findAccount: (_context, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  extraTokenClaims: () => ({ groups: ['agents'] }),
  features: {
    registration: { enabled: true },
    devInteractions: { enabled: true }, // its own pages to log in
    resourceIndicators: {
      enabled: true,
      defaultResource: () => resource,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({ scope: 'mcp', audience: resource, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } }),
    },
  },
  ttl: { AccessToken: 300, RefreshToken: 3600, Grant: 3600, Interaction: 600, Session: 600 },
});
provider.on('registration_create.error', (_context, error) => console.log('not registered:', error.error_description));
provider.listen(Number(port), '127.0.0.1', () => console.log('listening'));
